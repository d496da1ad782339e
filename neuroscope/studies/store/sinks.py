"""Sinks that store what forward passes compute: the values of each site, and statistics."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from neuroscope.activations import Floats
from neuroscope.extraction.riders import Rider
from neuroscope.sites import Site
from neuroscope.storage.disk import disk_errors
from neuroscope.storage.inputs import PartInputs
from neuroscope.storage.manifest import Manifest
from neuroscope.storage.parts import Part, verified_part, write_part
from neuroscope.storage.statistics import verified_arrays, write_arrays
from neuroscope.storage.tables import site_columns
from neuroscope.tokens import TokenBlock


class PartStatistics(Rider, Protocol):
    """Statistics of one part of the prompts."""

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return the arrays to store; called when the pass over the part is complete."""
        ...


class Statistics(Protocol):
    """Statistics of all prompts, computed and stored part by part.

    The study that uses them merges the parts when it reads them.
    """

    @property
    def name(self) -> str:
        """Name of the folder of their files, such as `geometry-3f2a`: a kind and a digest.

        The digest is that of its settings. The name consists of lower-case letters, digits, `_`
        and at least one `-`.
        """
        ...

    def rider(self, ids: Sequence[str], block: TokenBlock, first: int) -> PartStatistics:
        """Return empty statistics for a part.

        Args:
            ids: ids of the prompts of the part.
            block: tokens of these prompts.
            first: index of the first of these prompts among all prompts.
        """
        ...


class PartSink(Protocol):
    """Sink for the results of one pass, over the prompts of a part."""

    riders: Sequence[Rider]
    """Statistics that take part in the pass."""

    def put(self, site: Site, values: Floats, nonfinite: int) -> None:
        """Receive a site's values, (rows, neurons), and how many rows are not finite."""
        ...

    def finish(self) -> None:
        """Store what remains to be stored when the pass is complete."""
        ...


class Sink(Protocol):
    """Sink for the results of the passes over all parts."""

    takes_values: bool
    """Whether a pass has to provide the values of each site."""
    missing: set[int]
    """Numbers of the parts that are not stored."""
    grown: int
    """Bytes by which the folder has grown."""

    def begin(self, inputs: PartInputs) -> PartSink:
        """Begin a part and return the sink for its pass."""
        ...

    def declare(self, manifest: Manifest) -> Manifest:
        """Return the manifest with what this sink stored; called when no part is missing."""
        ...


class ValueSink:
    """Sink that stores the values of every site as Parquet."""

    takes_values = True

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest
        self.missing: set[int] = set()
        self.grown = 0
        self.nonfinite: Counter[str] = Counter()
        """Site -> number of rows of the stored parts that are not finite."""
        for number in range(len(manifest.parts)):
            expected = (manifest.part(str(site), number) for site in manifest.sites)
            stored = [part for header in expected if (part := verified_part(folder, header))]
            if len(stored) == len(manifest.sites):
                self.count(stored)
            else:
                self.missing.add(number)

    def begin(self, inputs: PartInputs) -> "_ValuePart":
        return _ValuePart(self, inputs)

    def declare(self, manifest: Manifest) -> Manifest:
        return replace(manifest, values=True, nonfinite=dict(self.nonfinite))

    def count(self, parts: Sequence[Part]) -> None:
        """Add the number of rows of stored parts that are not finite."""
        for part in parts:
            if part.nonfinite:
                self.nonfinite[part.table] += part.nonfinite


class _ValuePart:
    """Sink that stores the values of one part, one site at a time."""

    riders: Sequence[Rider] = ()

    def __init__(self, sink: ValueSink, inputs: PartInputs):
        self._sink, self._inputs = sink, inputs
        self._stored: list[Part] = []

    def put(self, site: Site, values: Floats, nonfinite: int) -> None:
        sink, inputs, key = self._sink, self._inputs, self._sink.manifest.key
        part = replace(sink.manifest.part(str(site), inputs.number), nonfinite=nonfinite)
        columns = site_columns(inputs.ids, inputs.block, values, key.pool, key.token_rule)
        with disk_errors(sink.folder):
            sink.grown += write_part(sink.folder, part, columns)
        self._stored.append(part)

    def finish(self) -> None:
        self._sink.missing.remove(self._inputs.number)
        self._sink.count(self._stored)


class StatisticsSink:
    """Sink that stores the arrays of statistics as NumPy files."""

    takes_values = False

    def __init__(self, folder: Path, manifest: Manifest, statistics: Statistics):
        self.folder, self.manifest, self.statistics = folder, manifest, statistics
        self.grown = 0
        self.missing = {
            number
            for number in range(len(manifest.parts))
            if not verified_arrays(folder, manifest.part(statistics.name, number))
        }

    def begin(self, inputs: PartInputs) -> "_StatisticsPart":
        return _StatisticsPart(self, inputs)

    def declare(self, manifest: Manifest) -> Manifest:
        names = {*manifest.statistics, self.statistics.name}
        return replace(manifest, statistics=tuple(sorted(names)))


class _StatisticsPart:
    """Sink that stores the arrays of one part when its pass is complete."""

    def __init__(self, sink: StatisticsSink, inputs: PartInputs):
        self._sink, self._number = sink, inputs.number
        self._rider = sink.statistics.rider(inputs.ids, inputs.block, inputs.first)
        self.riders: Sequence[Rider] = (self._rider,)

    def put(self, site: Site, values: Floats, nonfinite: int) -> None:
        """Do nothing, as the rider has received the values."""

    def finish(self) -> None:
        sink = self._sink
        part = sink.manifest.part(sink.statistics.name, self._number)
        arrays = self._rider.arrays()
        with disk_errors(sink.folder):
            sink.grown += write_arrays(sink.folder, part, arrays)
        sink.missing.remove(self._number)
