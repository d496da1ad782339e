"""Command-line options that all benchmarks share."""

import argparse
from pathlib import Path


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options `--prompts` and `--write`."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument(
        "--prompts", type=Path, help="CSV with a column text; random prompts if not given"
    )
    options.add_argument(
        "--write", action="store_true", help="write the table into docs/performance.md"
    )
    return options
