"""Time, memory and disk space of `neuroscope extract`, by the number of prompts."""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import Failed, measure, run_contender
from benchmarks.options import parser
from benchmarks.prompts import load_prompts, write_texts
from benchmarks.speed import words
from benchmarks.tables import machine, publish, table, target
from neuroscope.extraction.hardware import resolve_dtype

COMMAND = Path(sys.executable).with_name("neuroscope")
SITES = ("--site", "resid_post", "--site", "mlp_act")
BARE = {"float32": "bare-fp32", "bfloat16": "bare-bf16"}

SAMPLE = 10_000
"""Number of prompts, from the first, of the bare passes; their time is scaled by words."""

HEADER = (
    "prompts",
    "seconds",
    "prompts/s",
    "bare passes, s",
    "time / bare passes",
    "peak memory, MB",
    "on disk, MB",
)


@dataclass(frozen=True)
class Extraction:
    """Measurements of one run of the command."""

    prompts: int
    seconds: float
    bare: float
    """Seconds of the forward passes alone."""
    peak: int
    """Bytes of resident memory."""
    disk: int
    """Bytes on disk."""

    def figures(self) -> list[str]:
        """Return the row of the table."""
        return [
            f"{self.prompts:,}",
            f"{self.seconds:.0f}",
            f"{self.prompts / self.seconds:.0f}",
            f"{self.bare:.0f}",
            f"{self.seconds / self.bare:.2f}",
            f"{self.peak / 1e6:,.0f}",
            f"{self.disk / 1e6:,.0f}",
        ]


def extraction(texts: Sequence[str], dtype: str) -> Extraction:
    """Run the command as a user does, and the bare passes over the same prompts.

    Raises:
        Failed: one of them ends with an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, out = write_texts(Path(folder) / "prompts.csv", texts), Path(folder) / "activations"
        options = ["--out", str(out), "--device", "cpu", "--dtype", dtype]
        finished = measure([str(COMMAND), "extract", str(file), *SITES, *options])
        if finished.code:
            raise Failed(finished.last_line)
        disk = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        sample = texts[:SAMPLE]
        file = write_texts(Path(folder) / "sample.csv", sample)
        bare = run_contender(BARE[dtype], file).seconds * words(texts) / words(sample)
    return Extraction(len(texts), finished.seconds, bare, finished.peak, disk)


def targets(extractions: Sequence[Extraction]) -> list[str]:
    """Return a line per target: the time of the largest run, and how memory grows up to it."""
    small, large = (pick(extractions, key=lambda run: run.prompts) for pick in (min, max))
    if large.prompts < 100_000:  # the start of Python would take too large a share
        return ["The targets are meant for 100,000 prompts."]
    time = f"time / bare passes, {large.prompts:,} prompts"
    memory = f"peak memory, {large.prompts:,} prompts / {small.prompts:,}"
    return [
        target(time, large.seconds / large.bare, most=1.25),
        target(memory, large.peak / small.peak, most=1.05),
    ]


def main() -> None:
    """Measure, print and, if asked to, write the table."""
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    options.add_argument("--dtype", choices=[*BARE, "auto"], default="auto")
    arguments = options.parse_args()
    dtype = resolve_dtype(arguments.dtype, "cpu")
    extractions = []
    for size in arguments.sizes:
        print(f"{size} prompts", file=sys.stderr)
        extractions.append(extraction(load_prompts(arguments.prompts, size), dtype))
    rows = table(HEADER, [run.figures() for run in extractions], names=0)
    parts = [rows, "\n".join(targets(extractions)), f"Model in {dtype}. {machine()}"]
    publish("volume", "\n\n".join(parts), write=arguments.write)


if __name__ == "__main__":
    main()
