"""Extraction of activations to disk: its specification, its division into parts, its passes."""
