"""Extraction of activations to disk: any number of prompts, one part in memory at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path

from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.models import Model, check_model
from neuroscope.files import absolute
from neuroscope.options import Pool, TokenRule
from neuroscope.progress import Progress, silent
from neuroscope.prompts import Prompts, PromptSet
from neuroscope.sites import resolve_sites
from neuroscope.storage.disk import stored_bytes
from neuroscope.storage.manifest import MANIFEST, Manifest
from neuroscope.storage.statistics import Arrays, check_name, read_statistics
from neuroscope.storage.writing import FolderWriter, Request, complete_manifest, open_folder
from neuroscope.studies.store.division import PartLimits
from neuroscope.studies.store.passes import check_nonfinite, run_passes
from neuroscope.studies.store.plan import plan
from neuroscope.studies.store.sinks import Sink, Statistics, StatisticsSink, ValueSink
from neuroscope.studies.store.spec import ExtractionSpec


@dataclass(frozen=True)
class StoredActivations:
    """Activations and statistics on disk."""

    folder: Path
    manifest: Manifest = field(repr=False)
    computed: int
    """Number of prompts that were run through the model; those stored before are not counted."""

    @property
    def size(self) -> int:
        """Size on disk, in bytes."""
        return stored_bytes(self.folder)

    def statistics(self, name: str) -> Iterator[Arrays]:
        """Return the arrays of statistics, one mapping per part; see `read_statistics`."""
        return read_statistics(self.folder, name)


def extract_to(
    folder: str | Path,
    model: Model,
    prompts: Prompts | Sequence[str],
    sites: str | Sequence[str] = "resid_post",
    layers: str | int | Sequence[int] = "all",
    *,
    pool: Pool = "mean",
    token_rule: TokenRule = "content",
    truncate: bool = False,
    budget: int | None = None,
    allow_nonfinite: bool = False,
    progress: Progress = silent,
) -> StoredActivations:
    """Write activations of any number of prompts to a folder of Parquet parts.

    >>> prompts = ns.PromptFile.open("prompts.csv")
    >>> ns.extract_to("acts", model, prompts, ["resid_post", "mlp_act"])

    If a call is interrupted, the same call resumes; once the folder is complete, it computes
    nothing.

    Args:
        folder: folder that is new, empty, or from an earlier call with the same arguments.
        model: model from `load_model`.
        prompts: prompts, as a set, a file or texts.
        sites, layers, pool, token_rule, truncate, budget, allow_nonfinite, progress: as in
            `extract`.

    Raises:
        ModelError, SiteError, PromptError: as in `extract`.
        NonfiniteError: a value is not finite, and `allow_nonfinite` is false.
        StoreError: the folder contains something else, or cannot be written.
        ResourceError: there is not enough memory or disk space.
    """
    check_model(model)
    spec = ExtractionSpec(
        checkpoint=model.checkpoint,
        prompts=PromptSet.of(prompts) if isinstance(prompts, Sequence | PathLike) else prompts,
        sites=tuple(resolve_sites(sites, layers, model.layer_count)),
        pool=pool,
        token_rule=token_rule,
        truncate=truncate,
        dtype=model.dtype,
        attention=model.attention,
    )
    return store_activations(
        spec,
        folder,
        lambda: model,
        budget=budget,
        allow_nonfinite=allow_nonfinite,
        progress=progress,
    )


def store_activations(
    spec: ExtractionSpec,
    folder: str | Path,
    load: Callable[[], Model],
    *,
    statistics: Sequence[Statistics] = (),
    values: bool = True,
    budget: int | None = None,
    limits: PartLimits = PartLimits(),  # noqa: B008  a frozen value
    allow_nonfinite: bool = False,
    progress: Progress = silent,
) -> StoredActivations:
    """Complete a folder of activations; compute nothing if it is complete.

    Forward passes run over the parts for which values or statistics are missing, and only what is
    missing is stored. If the process is killed, the same call keeps every finished part.

    Args:
        spec: specification of the extraction.
        folder: folder of the activations; see `extract_to`.
        load: function that returns the model; called only if something has to be computed.
        statistics: statistics that are computed in the same passes and stored beside the values.
        values: whether to store the values of every site. If not, only prompts, tokens and
            statistics are stored, and the statistics have to refuse NaN and infinity.
        budget: number of tokens per batch; see `plan`.
        limits: limits on the size of a part.
        allow_nonfinite: whether to store and count rows with NaN or infinity instead of refusing
            them.
        progress: callback that receives the number of prompts that are done.

    Raises:
        NonfiniteError, StoreError, ResourceError, PromptError: as in `extract_to`.
        ModelError: the model pads prompts on another side than the composition of `spec`.
        ValueError: nothing is to be stored, or the names of the statistics are invalid.
    """
    folder = absolute(folder)
    request = _request(spec, statistics, values)
    manifest, computed = complete_manifest(folder, request), 0
    if manifest is None:
        extraction = _Extraction(spec, folder, statistics, values, allow_nonfinite, progress)
        with open_folder(folder, spec.key, progress) as writer:
            manifest, computed = extraction.complete(writer, load, budget, limits)
    elif values:
        check_nonfinite(manifest.nonfinite, folder, allow=allow_nonfinite)
    with suppress(OSError):  # the store may be read-only
        os.utime(folder / MANIFEST)  # the time of the last use
    return StoredActivations(folder, manifest, computed)


def _request(spec: ExtractionSpec, statistics: Sequence[Statistics], values: bool) -> Request:
    """Return the request for a folder; raise ValueError if it is empty or names are invalid."""
    names = tuple(kind.name for kind in statistics)
    for name in names:
        check_name(name)
    if len(set(names)) < len(names) or not (values or names):
        raise ValueError("nothing to store; store values, or statistics with distinct names")
    return Request(spec.key, values, names)


@dataclass(frozen=True)
class _Extraction:
    """Extraction that one call of `store_activations` requests."""

    spec: ExtractionSpec
    folder: Path
    statistics: Sequence[Statistics]
    values: bool
    allow_nonfinite: bool
    progress: Progress

    def complete(
        self,
        writer: FolderWriter,
        load: Callable[[], Model],
        budget: int | None,
        limits: PartLimits,
    ) -> tuple[Manifest, int]:
        """Store what is missing; return the manifest and the number of prompts computed."""
        manifest, computed = writer.stored_inputs(), 0
        sinks = self._sinks(manifest) if manifest else []
        if manifest is None or any(sink.missing for sink in sinks):
            model = load()
            self.spec.check_model(model)
            manifest = self._begin(writer, model, budget, limits)
            sinks = self._sinks(manifest)
            computed = run_passes(
                model,
                self.spec,
                self.folder,
                manifest,
                sinks,
                allow_nonfinite=self.allow_nonfinite,
                progress=self.progress,
            )
        for sink in sinks:
            manifest = sink.declare(manifest)
        writer.finish(manifest)
        return manifest, computed

    def _begin(
        self, writer: FolderWriter, model: Model, budget: int | None, limits: PartLimits
    ) -> Manifest:
        planned = plan(
            self.spec,
            self.folder,
            model,
            writer.begun,
            values=self.values,
            budget=budget,
            limits=limits,
        )
        return writer.begin(
            planned,
            self.spec.prompts,
            partial(tokenise, model, truncate=self.spec.truncate),
            values=self.values,
            progress=self.progress,
        )

    def _sinks(self, manifest: Manifest) -> list[Sink]:
        sinks: list[Sink] = []
        if self.values:
            values = ValueSink(self.folder, manifest)
            check_nonfinite(values.nonfinite, self.folder, allow=self.allow_nonfinite)
            sinks.append(values)
        sinks += [StatisticsSink(self.folder, manifest, kind) for kind in self.statistics]
        return sinks
