"""Time of a check of drift, compared with the bare forward passes that it needs."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.child import Failed
from benchmarks.drift_passes import DRIFT
from benchmarks.options import parser
from benchmarks.prompts import load_prompts, write_texts
from benchmarks.speed import race
from benchmarks.tables import machine, publish, table, target

HEADER = ("prompts", "bare passes, s", "check of drift, s", "check / bare passes")


def main() -> None:
    """Run both in turns and print the ratio of the fastest runs."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=2000, help="prompts")
    options.add_argument("--rounds", type=int, default=2, help="runs of each, in turns")
    arguments = options.parse_args()
    texts = load_prompts(arguments.prompts, arguments.count)
    with tempfile.TemporaryDirectory() as folder:
        file = write_texts(Path(folder) / "prompts.csv", texts)
        best = race(dict.fromkeys(DRIFT, file), arguments.rounds)
    seconds = {}
    for name, run in best.items():
        if isinstance(run, Failed):
            sys.exit(f"{name} does not run: {run}")
        seconds[name] = run.seconds
    publish("drift", results(seconds, len(texts)), write=arguments.write)


def results(seconds: Mapping[str, float], prompts: int) -> str:
    """Return the table, the target and the machine.

    Args:
        seconds: contender -> time of its fastest run.
        prompts: number of prompts.
    """
    bare, check = (seconds[name] for name in ("bare-drift", "drift"))
    ratio = check / bare
    row = [f"{prompts:,}", f"{bare:.1f}", f"{check:.1f}", f"{ratio:.2f}"]
    lines = [table(HEADER, [row], names=0), target("check / bare passes", ratio, most=1.3)]
    return "\n\n".join([*lines, machine()])


if __name__ == "__main__":
    main()
