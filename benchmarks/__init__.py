"""Benchmarks of speed, memory and precision; `make bench` writes docs/performance.md."""
