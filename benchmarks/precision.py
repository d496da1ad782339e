"""What bfloat16 costs: activations of the same prompts in bfloat16 and float32, site by site."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import Pooled, ours
from benchmarks.options import parser
from benchmarks.prompts import load_prompts
from benchmarks.tables import machine, publish, table
from neuroscope.sites import LAYER_COMPONENTS

HEADER = (
    "site",
    "cosine, mean",
    "cosine, smallest",
    "relative error, mean",
    "relative error, largest",
)

Floats = NDArray[np.float64]


def cosines(a: Floats, b: Floats) -> Floats:
    """(prompts, neurons) twice -> (prompts,)."""
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def relative_errors(a: Floats, b: Floats) -> Floats:
    """||a - b|| / ||b|| of each prompt: (prompts, neurons) twice -> (prompts,)."""
    return np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)


def lines(half: Pooled, full: Pooled) -> list[list[str]]:
    """A row for each site, by component, then by layer."""
    rows = []
    for site in sorted(full, key=lambda site: LAYER_COMPONENTS.index(site.split(".")[0])):
        a, b = half[site].astype(np.float64), full[site].astype(np.float64)
        cosine, error = cosines(a, b), relative_errors(a, b)
        figures = [f"{value:.5f}" for value in (cosine.mean(), cosine.min())]
        figures += [f"{value:.2%}" for value in (error.mean(), error.max())]
        rows.append([f"`{site}`", *figures])
    return rows


def compare(texts: Sequence[str]) -> list[list[str]]:
    """The table's rows."""
    half, full = (ours(list(texts), dtype, LAYER_COMPONENTS) for dtype in ("bfloat16", "float32"))
    return lines(half.pooled, full.pooled)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=2000, help="prompts")
    given = options.parse_args()
    rows = compare(load_prompts(given.prompts, given.count))
    text = f"{table(HEADER, rows)}\n\n{given.count:,} prompts, means over tokens. {machine()}"
    publish("precision", text, write=given.write)


if __name__ == "__main__":
    main()
