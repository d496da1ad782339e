"""Comparison of prompts with each other, at every layer of one or more models."""
