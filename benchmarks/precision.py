"""The error of bfloat16: activations of the same prompts in bfloat16 and float32."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import Pooled, ours
from benchmarks.options import parser
from benchmarks.prompts import load_prompts
from benchmarks.tables import machine, publish, table
from neuroscope.sites import LAYER_COMPONENTS

HEADER = (
    "worst layer",
    "cosine, mean",
    "cosine, smallest",
    "relative error, mean",
    "relative error, largest",
)

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Precision:
    """Deviation of activations in bfloat16 from those in float32, at one site."""

    mean_cosine: float
    smallest_cosine: float
    mean_error: float
    largest_error: float

    def cells(self) -> list[str]:
        """Return the cells of a row of the table."""
        cosines, errors = astuple(self)[:2], astuple(self)[2:]
        return [f"{value:.5f}" for value in cosines] + [f"{value:.2%}" for value in errors]


def precision(half: Doubles, full: Doubles) -> Precision:
    """Compare the activations of prompts at one site, both (prompts, neurons)."""
    cosine, error = cosines(half, full), relative_errors(half, full)
    return Precision(
        float(cosine.mean()), float(cosine.min()), float(error.mean()), float(error.max())
    )


def cosines(a: Doubles, b: Doubles) -> Doubles:
    """Return the cosine per prompt, (prompts,), of two arrays (prompts, neurons)."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / lengths)


def relative_errors(a: Doubles, b: Doubles) -> Doubles:
    """Return ||a - b|| / ||b|| per prompt, (prompts,), of two arrays (prompts, neurons)."""
    return np.asarray(np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1))


def worst_layers(half: Pooled, full: Pooled) -> dict[str, Precision]:
    """Return, for each component, the site with the largest relative error of a prompt."""
    worst = {}
    for component in LAYER_COMPONENTS:
        sites = {
            site: precision(half[site].astype(np.float64), full[site].astype(np.float64))
            for site in full
            if site.startswith(f"{component}.")
        }
        name, measured = max(sites.items(), key=lambda item: item[1].largest_error)
        worst[name] = measured
    return worst


def compare(texts: Sequence[str]) -> list[list[str]]:
    """Return the rows of the table."""
    half, full = (ours(list(texts), dtype, LAYER_COMPONENTS) for dtype in ("bfloat16", "float32"))
    worst = worst_layers(half.pooled, full.pooled)
    return [[f"`{site}`", *measured.cells()] for site, measured in worst.items()]


def main() -> None:
    """Measure, print and, if asked to, write the table."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=2000, help="prompts")
    arguments = options.parse_args()
    rows = compare(load_prompts(arguments.prompts, arguments.count))
    text = f"{table(HEADER, rows)}\n\n{arguments.count:,} prompts, means over tokens. {machine()}"
    publish("precision", text, write=arguments.write)


if __name__ == "__main__":
    main()
