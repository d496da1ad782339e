"""Associations of groups and roles in language models."""
