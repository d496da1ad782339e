"""Extracts activations to disk: any number of prompts, one part of them in memory at a time."""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from neuroscope.activations import check_pooling
from neuroscope.errors import ActivationError
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.extract import provenance_of, record
from neuroscope.extraction.finite import FiniteCheck
from neuroscope.extraction.memory import free_memory, give_back_memory
from neuroscope.extraction.models import Model
from neuroscope.progress import Progress, silent
from neuroscope.prompts import Prompts, PromptSet
from neuroscope.sites import Site, resolve_sites
from neuroscope.storage.disk import check_room, estimated_bytes, stored_bytes
from neuroscope.storage.manifest import ActivationKey, Manifest
from neuroscope.storage.unfinished import (
    UnfinishedActivations,
    complete_manifest,
    unfinished_activations,
)

_PART_BYTES = 128e6  # of a part's values and tokens: what memory holds at a time
_TOKEN_BYTES = 256  # of a token while a part's texts become tokens and these a table
_FULL_BATCHES = 4  # a part should fill so many, or the device would wait for prompts
_MOST = 1 / 8  # of free memory for a part, whatever it is to fill
_STATES = 12  # bytes for each number of the residual stream: what goes into a layer and out of it
_COPIES = 12  # bytes for each value of a streamed site: as it comes, put in order, being written
_SAMPLE = 1000  # prompts that tell how many tokens a text becomes
_LARGE = 100e6  # bytes: a job of which it is said beforehand how large it will be

_log = logging.getLogger("neuroscope")


@dataclass(frozen=True)
class Extraction:
    """What is to be extracted: everything that decides the values, and so the key."""

    checkpoint: Checkpoint
    prompts: Prompts
    sites: tuple[Site, ...]
    pool: str = "mean"
    tokens: str = "content"
    truncate: bool = False
    dtype: str = "float32"
    attention: str = "sdpa"
    seed: int = 0  # recorded; a pass itself draws no random numbers

    def __post_init__(self) -> None:
        check_pooling(self.pool, self.tokens)

    @property
    def key(self) -> ActivationKey:
        return ActivationKey(
            fingerprint=self.checkpoint.fingerprint,
            prompts_digest=self.prompts.digest,
            sites=self.sites,
            pool=self.pool,
            tokens=self.tokens,
            truncated=self.truncate,
            dtype=self.dtype,
            attention=self.attention,
        )

    @property
    def neurons(self) -> int:
        """Of all sites together."""
        return sum(self.checkpoint.neurons(site.component) for site in self.sites)


@dataclass(frozen=True)
class Stored:
    """Activations on the disk."""

    folder: Path
    manifest: Manifest
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
    pool: str = "mean",
    tokens: str = "content",
    truncate: bool = False,
    budget: int | None = None,
    allow_nonfinite: bool = False,
    progress: Progress = silent,
) -> Stored:
    """Writes activations of any number of prompts to a folder of Parquet parts.

    >>> prompts = PromptFile.open("prompts.csv")
    >>> extract_to("activations", model, prompts, ["resid_post", "mlp_act"])

    Cut short, the same call goes on where it was; once complete, it computes nothing.

    Args:
        folder: new, empty, or from an earlier call with the same arguments.
        model: from `load_model`.
        prompts: a set, a file, or texts.
        sites, layers, pool, tokens, truncate, budget, allow_nonfinite, progress: as `extract`.

    Raises:
        SiteError, PromptError: as `extract`.
        ActivationError: a value is not finite; the folder holds something else; its disk has not
            the room.
    """
    known = PromptSet.of(prompts) if isinstance(prompts, Sequence) else prompts
    wanted = Extraction(
        model.checkpoint,
        known,
        tuple(resolve_sites(sites, layers, model.layer_count)),
        pool,
        tokens,
        truncate,
        model.dtype,
        model.attention,
    )
    return store_activations(
        wanted,
        Path(folder),
        lambda: model,
        budget=budget,
        allow_nonfinite=allow_nonfinite,
        progress=progress,
    )


def store_activations(
    wanted: Extraction,
    folder: Path,
    load: Callable[[], Model],
    *,
    budget: int | None = None,
    allow_nonfinite: bool = False,
    progress: Progress = silent,
) -> Stored:
    """Completes a folder of activations, or finds it complete.

    Args:
        wanted: what it is to hold.
        folder: where; see `extract_to`.
        load: gives the model, asked only if something has to be computed.
        budget: tokens in a batch; found on the first batches if not given.
        allow_nonfinite: keep and count NaN and infinity instead of refusing them.
        progress: told how many prompts are through.

    Raises:
        ActivationError, PromptError: as `extract_to`.
    """
    manifest, computed = complete_manifest(folder, wanted.key), 0
    if manifest is None:
        manifest, computed = _complete(wanted, folder, load(), budget, allow_nonfinite, progress)
    _check_nonfinite(manifest.nonfinite, folder, allow_nonfinite)
    return Stored(folder, manifest, computed)


def _check_nonfinite(rows_at: Mapping[str, int], folder: Path, allow: bool) -> None:
    """Raises ActivationError where a folder holds NaN or infinity, unless they are allowed."""
    if rows_at and not allow:
        sites = ", ".join(f"{site} ({rows} rows)" for site, rows in rows_at.items())
        raise ActivationError(
            f"{folder} holds values that are not finite at {sites}: ask for it with"
            " --allow-nonfinite, or extract with --dtype float32"
        )


def _complete(
    wanted: Extraction,
    folder: Path,
    model: Model,
    budget: int | None,
    allow_nonfinite: bool,
    progress: Progress,
) -> tuple[Manifest, int]:
    """The manifest of the folder once it is complete, and how many prompts were computed."""
    token_budget = TokenBudget(budget, str(model.device))
    planned = _plan(wanted, folder, model, token_budget.usual)
    read = partial(tokenise, model, truncate=wanted.truncate)
    with unfinished_activations(
        folder, planned, wanted.prompts, read, progress=progress
    ) as unfinished:
        before = unfinished.finished_prompts
        _check_nonfinite(unfinished.nonfinite, folder, allow_nonfinite)
        for number in list(unfinished.missing):
            ids, block = unfinished.inputs(number, model.vocabulary)
            check = FiniteCheck(model.name, ids, allow=allow_nonfinite)
            recorded = record(
                model,
                block,
                wanted.sites,
                pool=wanted.pool,
                rule=wanted.tokens,
                budget=token_budget,
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
        progress(f"{task}, {unfinished.size / 1e6:,.0f} MB written", before + done, total)

    return report


def _plan(wanted: Extraction, folder: Path, model: Model, batch_tokens: int) -> Manifest:
    """What the folder is to hold, once it is known that the disk has the room.

    Args:
        batch_tokens: about how many a batch will hold.

    Raises:
        ActivationError: it has not.
    """
    count = len(wanted.prompts)
    tokens = _estimated_tokens(wanted, model)
    rows = count if wanted.pool != "none" else tokens
    per_part = _prompts_per_part(wanted, model, tokens / count, batch_tokens)
    needed = estimated_bytes(
        rows=rows,
        neurons=wanted.neurons,
        sites=len(wanted.sites),
        tokens=tokens,
        characters=wanted.prompts.characters,
        parts=-(-count // per_part),
    )
    check_room(folder, needed - stored_bytes(folder))
    if needed > _LARGE:
        _log.info("about %s MB will be written to %s", f"{needed / 1e6:,.0f}", folder)
    provenance = provenance_of(
        model,
        wanted.prompts.digest,
        pool=wanted.pool,
        tokens=wanted.tokens,
        truncate=wanted.truncate,
        seed=wanted.seed,
    )
    return Manifest(wanted.key, count, per_part, provenance)


def _estimated_tokens(wanted: Extraction, model: Model) -> int:
    """About how many tokens all prompts are, from the characters of the first ones."""
    sample = list(itertools.islice(wanted.prompts, _SAMPLE))
    tokens = len(tokenise(model, sample, truncate=True).ids)
    characters = sum(len(prompt.text) for prompt in sample)
    return math.ceil(wanted.prompts.characters * tokens / characters)


def _prompts_per_part(
    wanted: Extraction, model: Model, tokens_per_prompt: float, batch_tokens: int
) -> int:
    """As many as memory should hold at a time."""
    rows = 1 if wanted.pool != "none" else tokens_per_prompt
    texts = tokens_per_prompt * _TOKEN_BYTES
    if model.streamed:
        found = _prompts_at_once(wanted, model, tokens_per_prompt, texts, rows)
    else:
        size = rows * wanted.neurons * 4 + texts
        wished = _FULL_BATCHES * batch_tokens / tokens_per_prompt
        found = max(_PART_BYTES / size, min(wished, _MOST * free_memory() / size))
    return max(1, min(len(wanted.prompts), int(found)))


def _prompts_at_once(
    wanted: Extraction, model: Model, tokens_per_prompt: float, texts: float, rows: float
) -> float:
    """As many as half of the free memory can hold: the fewer times a streamed model is read."""
    states = tokens_per_prompt * wanted.checkpoint.neurons("resid_post") * _STATES
    values = rows * _widest_layer(wanted) * _COPIES + texts
    device = str(model.device)
    if device == "cpu":
        return free_memory() / 2 / (states + values)
    on_device = states if wanted.pool == "none" else states + values
    return min(free_memory(device) / 2 / on_device, free_memory() / 2 / values)


def _widest_layer(wanted: Extraction) -> int:
    """Neurons of all sites of the layer that has most: a streamed model keeps one at a time."""
    layers: Counter[int] = Counter()
    for site in wanted.sites:
        layers[site.layer] += wanted.checkpoint.neurons(site.component)
    return max(layers.values())
