"""Extracts activations to disk: any number of prompts, one part of them in memory at a time."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path

from neuroscope.errors import NonfiniteError
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.extract import record
from neuroscope.extraction.finite import FiniteCheck
from neuroscope.extraction.memory import give_back_memory
from neuroscope.extraction.models import Model
from neuroscope.files import absolute, size_text
from neuroscope.options import Pool, TokenRule
from neuroscope.progress import Progress, silent
from neuroscope.prompts import Prompts, PromptSet
from neuroscope.sites import resolve_sites
from neuroscope.storage.disk import stored_bytes
from neuroscope.storage.manifest import Manifest
from neuroscope.storage.unfinished import (
    UnfinishedActivations,
    complete_manifest,
    unfinished_activations,
)
from neuroscope.studies.store.plan import ExtractionSpec, plan


@dataclass(frozen=True)
class StoredActivations:
    """Activations on the disk."""

    folder: Path
    manifest: Manifest = field(repr=False)
    computed: int
    """Prompts that were run through the model; those of parts that were there before were not."""

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return stored_bytes(self.folder)


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
    """Writes activations of any number of prompts to a folder of Parquet parts.

    >>> prompts = PromptFile.open("prompts.csv")
    >>> extract_to("activations", model, prompts, ["resid_post", "mlp_act"])

    Cut short, the same call goes on where it was; once complete, it computes nothing.

    Args:
        folder: new, empty, or from an earlier call with the same arguments.
        model: from `load_model`.
        prompts: a set, a file, or texts.
        sites, layers, pool, token_rule, truncate, budget, allow_nonfinite, progress: as `extract`.

    Raises:
        SiteError, PromptError: as `extract`.
        NonfiniteError: a value is not finite.
        StoreError: the folder holds something else.
        ResourceError: its disk has not the room.
    """
    known = PromptSet.of(prompts) if isinstance(prompts, Sequence | PathLike) else prompts
    wanted = ExtractionSpec(
        model.checkpoint,
        known,
        tuple(resolve_sites(sites, layers, model.layer_count)),
        pool,
        token_rule,
        truncate,
        model.dtype,
        model.attention,
    )
    return store_activations(
        wanted,
        folder,
        lambda: model,
        budget=budget,
        allow_nonfinite=allow_nonfinite,
        progress=progress,
    )


def store_activations(
    wanted: ExtractionSpec,
    folder: str | Path,
    load: Callable[[], Model],
    *,
    budget: int | None = None,
    allow_nonfinite: bool = False,
    progress: Progress = silent,
) -> StoredActivations:
    """Completes a folder of activations, or finds it complete.

    Args:
        wanted: what it is to hold.
        folder: where; see `extract_to`.
        load: gives the model, asked only if something has to be computed.
        budget: tokens in a batch; see `plan`.
        allow_nonfinite: keep and count NaN and infinity instead of refusing them.
        progress: told how many prompts are through.

    Raises:
        NonfiniteError, StoreError, ResourceError, PromptError: as `extract_to`.
    """
    folder = absolute(folder)
    manifest, computed = complete_manifest(folder, wanted.key), 0
    if manifest is None:
        manifest, computed = _complete(wanted, folder, load(), budget, allow_nonfinite, progress)
    _check_nonfinite(manifest.nonfinite, folder, allow_nonfinite)
    return StoredActivations(folder, manifest, computed)


def _check_nonfinite(rows_at: Mapping[str, int], folder: Path, allow: bool) -> None:
    """Raises NonfiniteError where a folder holds NaN or infinity, unless they are allowed."""
    if rows_at and not allow:
        sites = ", ".join(f"{site} ({rows} rows)" for site, rows in rows_at.items())
        raise NonfiniteError(
            f"{folder} holds values that are not finite at {sites}: ask for it with"
            " --allow-nonfinite, or extract with --dtype float32"
        )


def _complete(
    wanted: ExtractionSpec,
    folder: Path,
    model: Model,
    budget: int | None,
    allow_nonfinite: bool,
    progress: Progress,
) -> tuple[Manifest, int]:
    """The manifest of the folder once it is complete, and how many prompts were computed."""

    def planned(begun: Manifest | None) -> Manifest:
        return plan(wanted, folder, model, budget, begun, progress)

    read = partial(tokenise, model, truncate=wanted.truncate)
    with unfinished_activations(
        folder, wanted.key, planned, wanted.prompts, read, progress=progress
    ) as unfinished:
        before = unfinished.finished_prompts
        batch_tokens = unfinished.manifest.latest.batch_tokens
        _check_nonfinite(unfinished.nonfinite, folder, allow_nonfinite)
        for number in list(unfinished.missing):
            ids, block = unfinished.inputs(number, model.vocabulary)
            check = FiniteCheck(model.name, ids, allow=allow_nonfinite)
            recorded = record(
                model,
                block,
                wanted.sites,
                pool=wanted.pool,
                token_rule=wanted.token_rule,
                budget=TokenBudget(batch_tokens),  # of its own, whatever came before
                check=check,
                progress=_progress_of_part(unfinished, progress),
            )
            with closing(recorded) as values:  # if the disk fails, no hook stays in the model
                unfinished.write(number, ids, block, values, check.counts)
            give_back_memory()
        unfinished.finish()
        return unfinished.manifest, len(wanted.prompts) - before


def _progress_of_part(unfinished: UnfinishedActivations, progress: Progress) -> Progress:
    """Reports a part's progress as that of the whole, with the bytes written so far."""
    before, total = unfinished.finished_prompts, unfinished.manifest.prompts

    def report(task: str, done: int, of: int) -> None:
        progress(f"{task}, {size_text(unfinished.size)} written", before + done, total)

    return report
