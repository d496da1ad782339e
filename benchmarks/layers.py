"""Time of the study of layers without probes, compared with the bare forward passes."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.child import Failed
from benchmarks.options import parser
from benchmarks.prompts import load_prompts, write_texts
from benchmarks.speed import race
from benchmarks.tables import machine, publish, table, target

PAIRS = {"float32": ("bare-fp32", "layers-fp32"), "bfloat16": ("bare-bf16", "layers-bf16")}
"""Number format -> names of the bare passes and of the study."""
HEADER = ("number format", "bare passes, s", "study of layers, s", "study / bare passes")


def main() -> None:
    """Run both in turns and print the ratio of the fastest runs."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=2000, help="prompts")
    options.add_argument("--rounds", type=int, default=3, help="runs of each, in turns")
    arguments = options.parse_args()
    texts = load_prompts(arguments.prompts, arguments.count)
    with tempfile.TemporaryDirectory() as folder:
        file = write_texts(Path(folder) / "prompts.csv", texts)
        names = [name for pair in PAIRS.values() for name in pair]
        best = race(dict.fromkeys(names, file), arguments.rounds)
    seconds = {}
    for name, run in best.items():
        if isinstance(run, Failed):
            sys.exit(f"{name} does not run: {run}")
        seconds[name] = run.seconds
    publish("layers", results(seconds, len(texts)), write=arguments.write)


def results(seconds: Mapping[str, float], prompts: int) -> str:
    """Return the table, the targets and the machine.

    Args:
        seconds: contender -> time of its fastest run.
        prompts: number of prompts.
    """
    rows, targets = [], []
    for dtype, (bare, study) in PAIRS.items():
        ratio = seconds[study] / seconds[bare]
        rows.append([dtype, f"{seconds[bare]:.1f}", f"{seconds[study]:.1f}", f"{ratio:.2f}"])
        targets.append(target(f"study / bare passes, {dtype}", ratio, most=1.15))
    lines = [table(HEADER, rows), "\n".join(targets), f"{prompts:,} prompts. {machine()}"]
    return "\n\n".join(lines)


if __name__ == "__main__":
    main()
