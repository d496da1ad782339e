"""Measures speed, memory and precision; `make bench` writes the tables of docs/performance.md."""
