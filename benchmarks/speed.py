"""How fast activations are read: this project, a plain loop and other libraries, side by side."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.child import CHECKED, Failed, Run, run_contender
from benchmarks.contenders import Pooled
from benchmarks.options import parser
from benchmarks.prompts import load_prompts, write_texts
from benchmarks.tables import aim, cpu_flags, machine, publish, table

BOTH = "`resid_post`, `mlp_act`"


@dataclass(frozen=True)
class Row:
    """A contender as the table shows it.

    `floor` names the bare passes that it is compared with, `most` is how many prompts it is given
    where it is slow, `tolerance` how far its values may be from Hugging Face's.
    """

    label: str
    records: str = ""
    floor: str = ""
    most: int | None = None
    tolerance: float = 1e-4


ROWS = {
    "bare-fp32": Row("bare forward passes, float32"),
    "ours-fp32": Row("**neuroscope**, float32", BOTH, floor="bare-fp32"),
    "bare-bf16": Row("bare forward passes, bfloat16"),
    "ours-bf16": Row("**neuroscope**, bfloat16", BOTH, floor="bare-bf16", tolerance=0.1),
    "plain-loop": Row("plain loop", "`resid_post`"),
    "nnsight": Row("nnsight", BOTH),
    "transformer-lens": Row("TransformerLens, as BertForMaskedLM", BOTH, most=500),
    "neurox-json": Row("NeuroX to JSON", "`resid_post` of every word", most=100),
    "neurox-hdf5": Row("NeuroX to HDF5", "`resid_post` of every word", most=500),
}

HEADER = (
    "contender",
    "recorded, all layers",
    "prompts",
    "prompts/s",
    "speed / plain loop",
    "time / bare passes",
    "peak memory, MB",
    "largest difference (relative)",
)


@dataclass(frozen=True)
class Result:
    """A contender's best round.

    `rate` in prompts a second, `peak` in bytes; `difference` is the largest one to Hugging Face's
    values, `relative` the norm of the differences over that of the values, at the worst site.
    """

    prompts: int
    rate: float
    peak: int
    difference: float
    relative: float


def race(files: Mapping[str, Path], rounds: int) -> dict[str, Run | Failed]:
    """Each contender's fastest run; in rounds, so that one noisy moment does not decide."""
    best: dict[str, Run | Failed] = {}
    for number in range(1, rounds + 1):
        for name, file in files.items():
            if isinstance(best.get(name), Failed):
                continue
            print(f"round {number} of {rounds}: {name}", file=sys.stderr)
            best[name] = faster(best.get(name), attempt(name, file))
    return best


def attempt(name: str, file: Path) -> Run | Failed:
    try:
        return run_contender(name, file)
    except Failed as fault:
        return fault


def faster(before: Run | Failed | None, run: Run | Failed) -> Run | Failed:
    if isinstance(before, Run) and isinstance(run, Run) and before.seconds < run.seconds:
        return before
    return run


def result_of(run: Run, row: Row, texts: Sequence[str], reference: Pooled) -> Result:
    """What a run says; a few prompts are scaled to the mean length of all by their words."""
    given = texts[: row.most]
    rate = words(given) / run.seconds * len(texts) / words(texts)
    return Result(len(given), rate, run.peak, *differences(run.pooled, reference))


def words(texts: Sequence[str]) -> int:
    return sum(len(text.split()) for text in texts)


def differences(found: Pooled, reference: Pooled) -> tuple[float, float]:
    """The largest difference, and the largest relative error of a site; 0 where nothing is."""
    largest, relative = [0.0], [0.0]
    for site, values in found.items():
        expected = reference[site][: len(values)]
        largest.append(np.abs(values - expected).max())
        relative.append(np.linalg.norm(values - expected) / np.linalg.norm(expected))
    return float(np.max(largest)), float(np.max(relative))  # NaN, if one is


def lines(results: Mapping[str, Result | Failed]) -> list[list[str]]:
    """The table's rows: what failed says why."""
    return [
        [ROWS[name].label, f"does not run: {one}".replace("|", "/"), *["-"] * (len(HEADER) - 2)]
        if isinstance(one, Failed)
        else [ROWS[name].label, ROWS[name].records or "nothing", *figures(name, one, results)]
        for name, one in results.items()
    ]


def figures(name: str, result: Result, results: Mapping[str, Result | Failed]) -> list[str]:
    plain, floor = results.get("plain-loop"), results.get(ROWS[name].floor)
    return [
        f"{result.prompts:,}",
        f"{result.rate:.0f}" if result.rate >= 10 else f"{result.rate:.1f}",
        f"{result.rate / plain.rate:.2f}" if isinstance(plain, Result) else "-",
        f"{floor.rate / result.rate:.2f}" if isinstance(floor, Result) else "-",
        f"{result.peak / 1e6:,.0f}",
        f"{result.difference:.1e} ({result.relative:.1e})" if ROWS[name].records else "-",
    ]


def aims(results: Mapping[str, Result | Failed]) -> list[str]:
    """What is aimed at, beside what was found."""

    def ratio(name: str, other: str) -> float | None:
        one, two = results.get(name), results.get(other)
        found = isinstance(one, Result) and isinstance(two, Result)
        return one.rate / two.rate if found else None

    amx = "" if "amx_bf16" in cpu_flags() else " (meant for CPUs with AMX, which this one has not)"
    wanted = (
        ("time / bare passes, float32", ratio("bare-fp32", "ours-fp32"), {"most": 1.1}),
        ("time / bare passes, bfloat16", ratio("bare-bf16", "ours-bf16"), {"most": 1.1}),
        ("speed / plain loop, float32", ratio("ours-fp32", "plain-loop"), {"least": 3}),
        (
            "speed / plain loop, bfloat16",
            ratio("ours-bf16", "plain-loop"),
            {"least": 8, "note": amx},
        ),
    )
    return [aim(what, found, **bounds) for what, found, bounds in wanted if found is not None]


def astray(results: Mapping[str, Result | Failed]) -> list[str]:
    """Contenders whose values are not Hugging Face's."""
    return [
        name
        for name, one in results.items()
        if isinstance(one, Result) and not one.difference <= ROWS[name].tolerance
    ]


def compare(texts: list[str], names: Sequence[str], rounds: int) -> dict[str, Result | Failed]:
    """Runs contenders over the same prompts and compares their values with Hugging Face's."""
    with tempfile.TemporaryDirectory() as folder:

        def file(most: int | None) -> Path:
            return write_texts(Path(folder) / f"{most}.csv", texts[:most])

        reference = run_contender("hugging-face", file(CHECKED)).pooled
        runs = race({name: file(ROWS[name].most) for name in names}, rounds)
    return {
        name: run if isinstance(run, Failed) else result_of(run, ROWS[name], texts, reference)
        for name, run in runs.items()
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=1500, help="prompts")
    options.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    options.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="CONTENDER")
    given = options.parse_args()
    texts = load_prompts(given.prompts, given.count)
    results = compare(texts, given.only, given.rounds)
    found = table(HEADER, lines(results), names=2)
    where = machine("nnsight", "transformer-lens", "neurox")
    publish("speed", "\n\n".join([found, "\n".join(aims(results)), where]), write=given.write)
    if wrong := astray(results):
        sys.exit(f"values differ from Hugging Face's: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
