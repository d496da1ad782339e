"""The options that all benchmarks have."""

import argparse
from pathlib import Path


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument(
        "--prompts", type=Path, help="CSV with a column text; without it, prompts are made"
    )
    made.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    return made
