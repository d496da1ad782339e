"""What is stored of a forward pass: the values of each site, and statistics computed on the way."""

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
        """Return what is stored of the part; called when its pass is complete."""
        ...


class Statistics(Protocol):
    """Statistics of all prompts, computed and stored part by part.

    The study that wants them merges the parts when it reads them.
    """

    @property
    def name(self) -> str:
        """The folder of their files, such as `geometry-3f2a`: a kind and a digest of its settings.

        Lower-case letters, digits, `_` and at least one `-`.
        """
        ...

    def rider(self, ids: Sequence[str], block: TokenBlock, first: int) -> PartStatistics:
        """Return the statistics of a part, empty.

        Args:
            ids: of the part's prompts.
            block: their tokens.
            first: index of the first of them among all prompts.
        """
        ...


class PartSink(Protocol):
    """Stores what one pass gives, over the prompts of a part."""

    riders: Sequence[Rider]
    """Statistics that take part in the pass."""

    def put(self, site: Site, values: Floats, nonfinite: int) -> None:
        """Take a site's (rows, neurons), of which some rows are not finite."""
        ...

    def finish(self) -> None:
        """Store what is left to store; the pass is complete."""
        ...


class Sink(Protocol):
    """Stores what the passes over all parts give."""

    takes_values: bool
    """Whether a pass has to give the values of each site."""
    missing: set[int]
    """Numbers of the parts that are not stored."""
    grown: int
    """Bytes by which the folder has grown."""

    def begin(self, inputs: PartInputs) -> PartSink:
        """Begin a part."""
        ...

    def declare(self, manifest: Manifest) -> Manifest:
        """Return the manifest, declaring what this sink stored; no part is missing."""
        ...


class ValueSink:
    """Stores every site's values as Parquet."""

    takes_values = True

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest
        self.missing: set[int] = set()
        self.grown = 0
        self.nonfinite: Counter[str] = Counter()
        """Site -> rows of the stored parts that are not finite."""
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
        """Add the rows of stored parts that are not finite."""
        for part in parts:
            if part.nonfinite:
                self.nonfinite[part.table] += part.nonfinite


class _ValuePart:
    """Stores the values of one part, a site at a time."""

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
    """Stores the arrays of statistics as NumPy files."""

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
    """Stores the arrays of one part when its pass is complete."""

    def __init__(self, sink: StatisticsSink, inputs: PartInputs):
        self._sink, self._number = sink, inputs.number
        self._rider = sink.statistics.rider(inputs.ids, inputs.block, inputs.first)
        self.riders: Sequence[Rider] = (self._rider,)

    def put(self, site: Site, values: Floats, nonfinite: int) -> None:
        """Do nothing: the rider has seen the values."""

    def finish(self) -> None:
        sink = self._sink
        part = sink.manifest.part(sink.statistics.name, self._number)
        arrays = self._rider.arrays()
        with disk_errors(sink.folder):
            sink.grown += write_arrays(sink.folder, part, arrays)
        sink.missing.remove(self._number)
