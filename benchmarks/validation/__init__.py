"""Acceptance of the check of drift on planted changes, for docs/validation.md."""
