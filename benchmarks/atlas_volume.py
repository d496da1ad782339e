"""Time, memory and disk space of `neuroscope atlas build`, by the number of prompts."""

import csv
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.child import Failed, measure, run_contender
from benchmarks.options import parser
from benchmarks.prompts import load_prompts, write_texts
from benchmarks.speed import words
from benchmarks.tables import machine, publish, table
from benchmarks.volume import BARE, COMMAND, HEADER, SAMPLE, Extraction, targets
from neuroscope.extraction.hardware import resolve_dtype

TOPICS = 20
"""Number of topics; each prompt has one of them in turn, whatever its text."""


def build(texts: Sequence[str], dtype: str) -> Extraction:
    """Run the command as a user does, and the bare passes over the same prompts.

    Raises:
        Failed: one of them ends with an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NEUROSCOPE_HOME"] = str(Path(folder) / "home")
        file = write_topics(Path(folder) / "prompts.csv", texts)
        options = ["--no-record", "--device", "cpu", "--dtype", dtype]
        finished = measure([str(COMMAND), "atlas", "build", str(file), *options])
        if finished.code:
            raise Failed(finished.last_line)
        home = Path(os.environ["NEUROSCOPE_HOME"])
        disk = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
        sample = texts[:SAMPLE]
        file = write_texts(Path(folder) / "sample.csv", sample)
        bare = run_contender(BARE[dtype], file).seconds * words(texts) / words(sample)
    return Extraction(len(texts), finished.seconds, bare, finished.peak, disk)


def write_topics(path: Path, texts: Sequence[str]) -> Path:
    """Write a CSV file with the columns `text` and `topic`, and return its path."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "topic"])
        writer.writerows([text, f"topic {number % TOPICS}"] for number, text in enumerate(texts))
    return path


def main() -> None:
    """Measure, print and, if asked to, write the table."""
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    options.add_argument("--dtype", choices=[*BARE, "auto"], default="auto")
    arguments = options.parse_args()
    dtype = resolve_dtype(arguments.dtype, "cpu")
    builds = []
    for size in arguments.sizes:
        print(f"{size} prompts", file=sys.stderr)
        builds.append(build(load_prompts(arguments.prompts, size), dtype))
    rows = table(HEADER, [run.figures() for run in builds], names=0)
    parts = [rows, "\n".join(targets(builds)), f"Model in {dtype}. {machine('duckdb')}"]
    publish("atlas-volume", "\n\n".join(parts), write=arguments.write)


if __name__ == "__main__":
    main()
