"""Command line: one module per group of commands; each turns arguments into one call.

Large libraries are imported only when a command needs them, so that `neuroscope --help` is fast.
"""

from flows.cli import compare, extract, layers, run, store, up  # each adds its commands
from flows.cli.app import app, main

__all__ = ["app", "compare", "extract", "layers", "main", "run", "store", "up"]
