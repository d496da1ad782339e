"""How `neuroscope extract` grows with the number of prompts: time, memory, bytes on disk."""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import Failed, measure, run_contender
from benchmarks.options import parser
from benchmarks.prompts import load_prompts, write_texts
from benchmarks.speed import words
from benchmarks.tables import aim, machine, publish, table
from neuroscope.extraction.hardware import resolve_dtype

COMMAND = Path(sys.executable).with_name("neuroscope")
SITES = ("--site", "resid_post", "--site", "mlp_act")
BARE = {"float32": "bare-fp32", "bfloat16": "bare-bf16"}

SAMPLE = 10_000
"""Prompts, from the first, that the bare passes run over; the rest is added by its words."""

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
    """One run of the command; `bare` are the seconds of the forward passes alone."""

    prompts: int
    seconds: float
    bare: float
    peak: int  # bytes
    disk: int  # bytes

    def figures(self) -> list[str]:
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
    """Runs the command, as a user does, and the bare passes over the same prompts.

    Raises:
        Failed: one of them could not.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, out = write_texts(Path(folder) / "prompts.csv", texts), Path(folder) / "activations"
        options = ["--out", str(out), "--device", "cpu", "--dtype", dtype]
        ended = measure([str(COMMAND), "extract", str(file), *SITES, *options])
        if ended.code:
            raise Failed(ended.last_line)
        disk = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        sample = texts[:SAMPLE]
        file = write_texts(Path(folder) / "sample.csv", sample)
        bare = run_contender(BARE[dtype], file).seconds * words(texts) / words(sample)
    return Extraction(len(texts), ended.seconds, bare, ended.peak, disk)


def aims(found: Sequence[Extraction]) -> list[str]:
    """What is aimed at, beside what was found: the largest run's time and growth of memory."""
    small, large = (pick(found, key=lambda one: one.prompts) for pick in (min, max))
    if large.prompts < 100_000:  # the start of Python would weigh too much
        return ["What is aimed at is meant for 100,000 prompts."]
    time = f"time / bare passes, {large.prompts:,} prompts"
    memory = f"peak memory, {large.prompts:,} prompts / {small.prompts:,}"
    return [
        aim(time, large.seconds / large.bare, most=1.25),
        aim(memory, large.peak / small.peak, most=1.05),
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    options.add_argument("--dtype", choices=[*BARE, "auto"], default="auto")
    given = options.parse_args()
    dtype = resolve_dtype(given.dtype, "cpu")
    found = []
    for size in given.sizes:
        print(f"{size} prompts", file=sys.stderr)
        found.append(extraction(load_prompts(given.prompts, size), dtype))
    shown = table(HEADER, [one.figures() for one in found], names=0)
    text = [shown, "\n".join(aims(found)), f"Model in {dtype}. {machine()}"]
    publish("volume", "\n\n".join(text), write=given.write)


if __name__ == "__main__":
    main()
