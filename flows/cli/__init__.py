"""Command line: one module per group of commands; each turns arguments into one call.

Large libraries are imported only when a command needs them, so that `neuroscope --help` is fast.
"""

from flows.cli import (  # each adds its commands
    associate,
    atlas,
    compare,
    drift,
    extract,
    layers,
    monitor,
    pairs,
    report,
    run,
    store,
    ui,
    up,
    version,
)
from flows.cli.app import app, main

__all__ = [
    "app",
    "associate",
    "atlas",
    "compare",
    "drift",
    "extract",
    "layers",
    "main",
    "monitor",
    "pairs",
    "report",
    "run",
    "store",
    "ui",
    "up",
    "version",
]
