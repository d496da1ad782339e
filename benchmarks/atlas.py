"""Size of a synthetic atlas, time to write it, and time of each query."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.options import parser
from benchmarks.synthetic_atlas import LAYERS, Synthetic
from benchmarks.tables import machine, publish, table, target
from neuroscope.files import size_text
from neuroscope.storage.atlas_file import Atlas
from neuroscope.storage.atlas_writing import write_atlas

HEADER = ("query", "first call, ms", "median, ms", "worst, ms")
CALLS = 20
"""Number of calls of each query after the first."""

Queries = Mapping[str, Callable[[Atlas], object]]


@dataclass(frozen=True)
class Timing:
    """Times of one query, in milliseconds."""

    first: float
    """The first call after the file is opened."""
    later: list[float]

    def figures(self) -> list[str]:
        """Return the figures of the row of the table."""
        return [f"{value:.1f}" for value in (self.first, median(self.later), max(self.later))]


def queries(atlas: Synthetic) -> Queries:
    """Return name -> query."""
    neuron = f"mlp_act.{LAYERS // 2}.{atlas.units // 3}"
    topic = f"topic {atlas.topics // 2}"
    return {
        "topics and their covariates": lambda file: file.topics(),
        "neurons of a topic, top 50": lambda file: file.neurons(topic),
        "neurons of a topic, selective or not": lambda file: file.neurons(topic, selective=False),
        "neurons of a range of layers": lambda file: file.neurons(topic, layers="4-9"),
        "neurons of all topics": lambda file: file.neurons(),
        "card of a neuron": lambda file: file.neuron(neuron),
        "moments of a layer": lambda file: file.moments(LAYERS // 2),
    }


def timing(path: Path, query: Callable[[Atlas], object]) -> Timing:
    """Time a query on a file that is opened for it."""
    with Atlas.open(path) as file:
        times = []
        for _ in range(1 + CALLS):
            start = time.perf_counter()
            query(file)
            times.append(1000 * (time.perf_counter() - start))
    return Timing(times[0], times[1:])


def results(timings: Mapping[str, Timing], size: int, seconds: float) -> str:
    """Return the table, the targets, the size and the machine.

    Args:
        timings: query -> its times.
        size: bytes of the file.
        seconds: time to write it.
    """
    rows = [[name, *times.figures()] for name, times in timings.items()]
    slowest = max(median(times.later) for times in timings.values())
    return "\n\n".join(
        [
            table(HEADER, rows),
            target("median of the slowest query, ms", slowest, most=50),
            f"The file has {size_text(size)} and is written in {seconds:.0f} s.",
            machine("duckdb"),
        ]
    )


def main() -> None:
    """Write the atlas, time the queries and print the table."""
    options = parser(__doc__)
    options.add_argument("--neurons", type=int, default=458_752, help="of all layers together")
    options.add_argument("--topics", type=int, default=20)
    arguments = options.parse_args()
    atlas = Synthetic(arguments.neurons, arguments.topics)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = write_atlas(Path(folder) / "atlas.duckdb", atlas.tables())
        seconds = time.perf_counter() - start
        timings = {name: timing(path, query) for name, query in queries(atlas).items()}
        content = results(timings, path.stat().st_size, seconds)
    publish("atlas", content, write=arguments.write)


if __name__ == "__main__":
    main()
