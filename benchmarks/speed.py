"""Speed of recording activations: neuroscope, a plain loop and other libraries."""

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
from benchmarks.tables import cpu_flags, machine, publish, table, target

BOTH = "`resid_post`, `mlp_act`"


@dataclass(frozen=True)
class Row:
    """A contender as the table shows it."""

    label: str
    records: str = ""
    """The components that it records."""
    floor: str = ""
    """Name of the bare passes that it is compared with."""
    most: int | None = None
    """Maximum number of prompts, for a slow contender."""
    tolerance: float = 1e-4
    """Largest difference allowed to the values of Hugging Face."""


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
    """The best round of a contender."""

    prompts: int
    rate: float
    """Prompts per second."""
    peak: int
    """Bytes of resident memory."""
    difference: float
    """Largest difference to the values of Hugging Face."""
    relative: float
    """Norm of the differences over the norm of the values, at the worst site."""


def race(files: Mapping[str, Path], rounds: int) -> dict[str, Run | Failed]:
    """Return the fastest run of each contender; rounds spread noise over all contenders."""
    best: dict[str, Run | Failed] = {}
    for number in range(1, rounds + 1):
        for name, file in files.items():
            if isinstance(best.get(name), Failed):
                continue
            print(f"round {number} of {rounds}: {name}", file=sys.stderr)
            best[name] = faster(best.get(name), attempt(name, file))
    return best


def attempt(name: str, file: Path) -> Run | Failed:
    """Run a contender; return its failure instead of raising it."""
    try:
        return run_contender(name, file)
    except Failed as failure:
        return failure


def faster(before: Run | Failed | None, run: Run | Failed) -> Run | Failed:
    """Return the faster of two runs; a failure replaces an earlier run."""
    if isinstance(before, Run) and isinstance(run, Run) and before.seconds < run.seconds:
        return before
    return run


def result_of(run: Run, row: Row, texts: Sequence[str], reference: Pooled) -> Result:
    """Return the result of a run; the rate of fewer prompts is scaled to the mean length of all."""
    used = texts[: row.most]
    rate = words(used) / run.seconds * len(texts) / words(texts)
    return Result(len(used), rate, run.peak, *differences(run.pooled, reference))


def words(texts: Sequence[str]) -> int:
    """Return the number of words of all texts."""
    return sum(len(text.split()) for text in texts)


def differences(pooled: Pooled, reference: Pooled) -> tuple[float, float]:
    """Return the largest difference and the largest relative error of a site; 0 without sites."""
    largest, relative = [0.0], [0.0]
    for site, values in pooled.items():
        expected = reference[site][: len(values)]
        largest.append(float(np.abs(values - expected).max()))
        relative.append(float(np.linalg.norm(values - expected) / np.linalg.norm(expected)))
    return float(np.max(largest)), float(np.max(relative))  # NaN if one of them is


def table_rows(results: Mapping[str, Result | Failed]) -> list[list[str]]:
    """Return the rows of the table; the row of a failed contender shows its error."""
    rows = []
    for name, result in results.items():
        if isinstance(result, Failed):
            cells = [f"does not run: {result}".replace("|", "/"), *["-"] * (len(HEADER) - 2)]
        else:
            cells = [ROWS[name].records or "nothing", *figures(name, result, results)]
        rows.append([ROWS[name].label, *cells])
    return rows


def figures(name: str, result: Result, results: Mapping[str, Result | Failed]) -> list[str]:
    """Return the numbers of a row."""
    plain, floor = results.get("plain-loop"), results.get(ROWS[name].floor)
    return [
        f"{result.prompts:,}",
        f"{result.rate:.0f}" if result.rate >= 10 else f"{result.rate:.1f}",
        f"{result.rate / plain.rate:.2f}" if isinstance(plain, Result) else "-",
        f"{floor.rate / result.rate:.2f}" if isinstance(floor, Result) else "-",
        f"{result.peak / 1e6:,.0f}",
        f"{result.difference:.1e} ({result.relative:.1e})" if ROWS[name].records else "-",
    ]


def targets(results: Mapping[str, Result | Failed]) -> list[str]:
    """Return a line per target, for the contenders that ran."""
    amx = "" if "amx_bf16" in cpu_flags() else "; meant for CPUs with AMX, which this one lacks"
    bounds = (
        ("time / bare passes, float32", "bare-fp32", "ours-fp32", {"most": 1.1}),
        ("time / bare passes, bfloat16", "bare-bf16", "ours-bf16", {"most": 1.1}),
        ("speed / plain loop, float32", "ours-fp32", "plain-loop", {"least": 3.0}),
        ("speed / plain loop, bfloat16", "ours-bf16", "plain-loop", {"least": 8.0}),
    )
    lines = []
    for quantity, numerator, denominator, bound in bounds:
        a, b = results.get(numerator), results.get(denominator)
        if isinstance(a, Result) and isinstance(b, Result):
            note = amx if numerator == "ours-bf16" else ""
            lines.append(target(quantity, a.rate / b.rate, note=note, **bound))
    return lines


def deviating(results: Mapping[str, Result | Failed]) -> list[str]:
    """Return the contenders whose values differ from those of Hugging Face."""
    return [
        name
        for name, result in results.items()
        if isinstance(result, Result) and not result.difference <= ROWS[name].tolerance
    ]


def compare(texts: list[str], names: Sequence[str], rounds: int) -> dict[str, Result | Failed]:
    """Run contenders over the same prompts and compare their values with Hugging Face's."""
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
    """Measure, print and, if asked to, write the table."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=1500, help="prompts")
    options.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    options.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="CONTENDER")
    arguments = options.parse_args()
    texts = load_prompts(arguments.prompts, arguments.count)
    results = compare(texts, arguments.only, arguments.rounds)
    parts = [
        table(HEADER, table_rows(results), names=2),
        "\n".join(targets(results)),
        machine("nnsight", "transformer-lens", "neurox"),
    ]
    publish("speed", "\n\n".join(parts), write=arguments.write)
    if names := deviating(results):
        sys.exit(f"values differ from Hugging Face's: {', '.join(names)}")


if __name__ == "__main__":
    main()
