"""Prompts to activations on disk: what is asked for, its parts, and the pass that writes them."""
