"""Speed of bare forward passes over batches padded to tiles of different sizes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.contenders import BUDGET, MODEL, model_inputs
from benchmarks.options import parser
from benchmarks.prompts import load_prompts
from benchmarks.tables import machine, publish, table
from neuroscope.options import Dtype

TILES = (1, 8, 16, 32)
"""Tokens per tile; 1 pads each batch to its longest prompt."""
HEADER = (
    "number format",
    "tokens per tile",
    "batches",
    "shapes",
    "tokens",
    "prompts per processor second",
    "speed",
)


@dataclass
class Passes:
    """Batches of one tile size, and the fastest pass of each."""

    inputs: list[dict[str, Any]]
    fastest: list[float] = field(default_factory=list)
    """Processor seconds per batch."""

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Prompts and tokens per prompt of each batch."""
        return [tuple(batch["input_ids"].shape) for batch in self.inputs]

    @property
    def tokens(self) -> int:
        """Number of tokens of all batches, padding included."""
        return sum(prompts * width for prompts, width in self.shapes)

    def run(self, module: Any) -> None:
        """Time a pass over each batch, and keep the fastest so far."""
        seconds = [_seconds(module, batch) for batch in self.inputs]
        self.fastest = [*map(min, self.fastest or seconds, seconds)]


def _seconds(module: Any, batch: dict[str, Any]) -> float:
    """Return the processor time of one pass, which other processes hardly change."""
    start = time.process_time()
    module(**batch)
    return time.process_time() - start


def race(texts: list[str], dtype: Dtype, rounds: int) -> dict[int, Passes]:
    """Run the batches of all tile sizes in turns."""
    import torch

    import neuroscope as ns

    model = ns.load_model(MODEL, device="cpu", dtype=dtype)
    passes = {tile: Passes(model_inputs(model, texts, tile)) for tile in TILES}
    with torch.inference_mode():
        for _ in range(rounds):
            for of_tile in passes.values():
                of_tile.run(model.module)
    return passes


def rows(dtype: Dtype, passes: dict[int, Passes], prompts: int) -> list[list[str]]:
    """Return the rows of the table for one number format."""
    plain = passes[1]
    return [
        [
            dtype,
            str(tile),
            str(len(of_tile.inputs)),
            str(len(set(of_tile.shapes))),
            f"{of_tile.tokens / plain.tokens:.2f}",
            f"{prompts / sum(of_tile.fastest):.0f}",
            f"{sum(plain.fastest) / sum(of_tile.fastest):.2f}",
        ]
        for tile, of_tile in passes.items()
    ]


def measure(texts: list[str], dtypes: Sequence[Dtype], rounds: int) -> list[list[str]]:
    """Return the rows of the table."""
    return [row for dtype in dtypes for row in rows(dtype, race(texts, dtype, rounds), len(texts))]


def main() -> None:
    """Measure, print and, if asked to, write the table."""
    import torch

    options = parser(__doc__)
    options.add_argument("--count", type=int, default=1500, help="prompts")
    options.add_argument("--rounds", type=int, default=4, help="runs of each batch, in turns")
    arguments = options.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other would count as processor time
    texts = load_prompts(arguments.prompts, arguments.count)
    content = table(HEADER, measure(texts, ("float32", "bfloat16"), arguments.rounds))
    scope = f"{len(texts):,} prompts in batches of up to {BUDGET:,} tokens, one thread. {machine()}"
    publish("tiles", f"{content}\n\n{scope}", write=arguments.write)


if __name__ == "__main__":
    main()
