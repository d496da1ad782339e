"""Extraction of the activations of prompts, into memory or as a stream of sites."""

import datetime
import mmap
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from neuroscope.activations import Activations, Floats, Provenance
from neuroscope.errors import ResourceError
from neuroscope.extraction.batching import Batch, batches, tokenise
from neuroscope.extraction.budget import TokenBudget, usual_budget
from neuroscope.extraction.finite import FiniteCheck
from neuroscope.extraction.models import Model, check_model
from neuroscope.extraction.pooling import pooling
from neuroscope.extraction.reading import read_sites
from neuroscope.extraction.recorder import Keep
from neuroscope.extraction.riders import Rider, reduce_together
from neuroscope.files import size_text
from neuroscope.options import Pool, TokenRule, check_choice, choices
from neuroscope.progress import Progress, silent
from neuroscope.prompts import Prompts, PromptSet
from neuroscope.provenance import git_commit, library_versions
from neuroscope.sites import Site, resolve_sites
from neuroscope.tokens import TokenBlock

if TYPE_CHECKING:
    import torch


@overload
def extract(
    model: Model,
    prompts: Prompts | Sequence[str],
    sites: str | Sequence[str] = ...,
    layers: str | int | Sequence[int] = ...,
    *,
    pool: Literal["none"],
    token_rule: TokenRule = ...,
    truncate: bool = ...,
    budget: int | None = ...,
    allow_nonfinite: bool = ...,
    progress: Progress = ...,
) -> Activations[list[Floats]]: ...


@overload
def extract(
    model: Model,
    prompts: Prompts | Sequence[str],
    sites: str | Sequence[str] = ...,
    layers: str | int | Sequence[int] = ...,
    *,
    pool: Literal["mean", "max", "last", "first"] = ...,
    token_rule: TokenRule = ...,
    truncate: bool = ...,
    budget: int | None = ...,
    allow_nonfinite: bool = ...,
    progress: Progress = ...,
) -> Activations[Floats]: ...


def extract(
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
) -> Activations[Any]:
    """Extract activations of prompts at sites into memory, in the order of the prompts.

    For more prompts than fit into memory, use `extract_to`, which writes to disk part by part.

    Args:
        model: model from `load_model`.
        prompts: prompt set, file of prompts, or texts.
        sites: components (`mlp_act`), sites (`mlp_act.3`) or TransformerLens names.
        layers: layers of the sites that are named without a layer: `all`, `3`, `0-5`, `2,4` or
            `-1` (the last).
        pool: way to pool a prompt's tokens into one row: `mean`, `max`, `last` or `first`; `none`
            keeps every token.
        token_rule: rule on which tokens count: `content` (without special tokens) or `all`.
        truncate: whether to cut prompts at the model's limit instead of refusing them.
        budget: token budget per batch, padding included; by default the usual one of the device.
        allow_nonfinite: whether to keep NaN and infinity instead of refusing them.
        progress: callback that is called after each batch.

    Returns:
        Activations with one float32 array, (prompts, neurons), per site; with pool `none`, a list
        of one (tokens, neurons) array per prompt. For `logits`, the neurons are the tokens of the
        vocabulary.

    Raises:
        ModelError: the model is not loaded.
        SiteError: a site or layer does not exist.
        PromptError: a prompt cannot be read.
        NonfiniteError: a value is not finite.
        ResourceError: there is not enough memory.
        NeuroscopeError: an option has an unknown value.
    """
    check_model(model)
    check_choice("pool", pool, choices(Pool))
    check_choice("token_rule", token_rule, choices(TokenRule))
    prompt_set = PromptSet.of(prompts)
    resolved = resolve_sites(sites, layers, model.layer_count)
    model.check_sites(resolved)
    batch_tokens = usual_budget(str(model.device)) if budget is None else budget
    token_budget = TokenBudget(batch_tokens)
    block = tokenise(model, prompt_set.prompts, truncate=truncate)
    progress("extract", 0, len(prompt_set))
    recorded = dict(
        record(
            model,
            block,
            resolved,
            pool=pool,
            token_rule=token_rule,
            budget=token_budget,
            check=FiniteCheck(model, prompt_set.ids, allow=allow_nonfinite),
            progress=progress,
        )
    )
    ends = np.cumsum(block.kept_counts(token_rule))[:-1]
    arrays = {
        site: np.split(recorded[site], ends) if pool == "none" else recorded[site]
        for site in resolved
    }
    provenance = provenance_of(
        model,
        prompt_set.digest,
        pool=pool,
        token_rule=token_rule,
        truncate=truncate,
        batch_tokens=batch_tokens,
    )
    return Activations(prompt_set, block, arrays, provenance)


def record(
    model: Model,
    block: TokenBlock,
    sites: Sequence[Site],
    *,
    pool: Pool | None,
    token_rule: TokenRule,
    budget: TokenBudget,
    check: FiniteCheck | None = None,
    riders: Sequence[Rider] = (),
    shuffle: int | None = None,
    progress: Progress = silent,
) -> Generator[tuple[Site, Floats], None, None]:
    """Yield the values of each site for a block of prompts, in forward order.

    Args:
        model: model from `load_model`.
        block: tokens of the prompts, from `tokenise`.
        sites: sites to read.
        pool: way to pool a prompt's tokens into one row. None keeps and yields no values: only the
            riders receive them, and the generator must still be exhausted.
        token_rule: rule on which tokens count, `content` or `all`.
        budget: token budget per batch, padding included.
        check: check that refuses or counts pooled values that are not finite; by default there is
            no check.
        riders: statistics to compute in the same passes.
        shuffle: seed of a random grouping of prompts of similar length into batches; by default
            the grouping is determined by their lengths.
        progress: callback that is called after each batch.

    Yields:
        Site and its values, float32: (prompts, neurons) in the order of the block; with pool
        `none`, (tokens, neurons) of the tokens that count.

    Raises:
        SiteError: the model does not have a site.
        NonfiniteError: a pooled value is not finite.
        ResourceError: there is not enough memory.
    """
    rows = None if pool is None else _PooledRows(block, pool, token_rule, check)
    all_riders = [*riders] if rows is None else [rows, *riders]
    reading = read_sites(
        model,
        batches(model, block, token_rule=token_rule, budget=budget, shuffle=shuffle),
        sites,
        lambda site, batch: reduce_together(all_riders, site, batch),
        budget,
    )
    tokens, total = 0, len(block.ids) * len(sites)
    progress("extract", 0, len(block))
    with closing(reading):
        for batch, site, reduced in reading:
            for rider, value in zip(all_riders, reduced, strict=True):
                rider.add(site, batch, value)
            # measured in tokens: the first batches have the longest prompts and take longest
            tokens += int(block.lengths[batch.members].sum())
            progress("extract", len(block) * tokens // total, len(block))
            if rows is not None and rows.is_complete(site):
                yield site, rows.take(site)


class _PooledRows:
    """Rider that keeps the pooled values of all batches, in the order of the block."""

    def __init__(
        self, block: TokenBlock, pool: Pool, token_rule: TokenRule, check: FiniteCheck | None
    ):
        self._token_level, self._check = pool == "none", check
        self._count = int(block.kept_counts(token_rule).sum()) if self._token_level else len(block)
        self._arrays: dict[Site, Floats] = {}
        self._filled: Counter[Site] = Counter()
        # every site of a batch is pooled with the same weights
        self._pooling = lru_cache(maxsize=1)(lambda batch: pooling(pool, batch.kept))

    def reduce(self, site: Site, batch: Batch) -> Keep:
        """Return the function that pools the tokens of a batch."""
        return self._pooling(batch)

    def add(self, site: Site, batch: Batch, reduced: "torch.Tensor") -> None:
        """Copy the values of a batch, (rows of the batch, neurons), to the rows of the block."""
        values = reduced.cpu()
        rows, owners = batch.members, batch.members
        if self._token_level:
            rows, owners = batch.token_rows, batch.token_owners
        if self._check is not None:
            self._check(site, values, owners)
        if site not in self._arrays:
            self._arrays[site] = _allocate(self._count, values.shape[1])
        self._arrays[site][rows] = values.numpy()
        self._filled[site] += len(rows)

    def is_complete(self, site: Site) -> bool:
        """Return whether all rows of a site have been added."""
        return self._filled[site] == self._count

    def take(self, site: Site) -> Floats:
        """Remove the values of a site, (rows of the block, neurons), and return them."""
        return self._arrays.pop(site)


def _allocate(rows: int, neurons: int) -> Floats:
    """Return an uninitialised (rows, neurons) array in a memory mapping of its own.

    The mapping is returned to the system as soon as the array is freed. On the heap, among the
    small tensors of a pass, large arrays would leave gaps, and the memory of the process would grow
    with the number of parts.

    Raises:
        ResourceError: there is not enough memory.
    """
    size = max(rows * neurons * 4, 1)
    try:
        mapping = mmap.mmap(-1, size)
    except OSError as error:
        raise ResourceError(
            f"cannot allocate {size_text(size)} for the activations of one site ({error.strerror})",
            remedy="extract to disk, which holds one part in memory at a time, read fewer prompts,"
            " or pool their tokens",
        ) from error
    return np.frombuffer(mapping, dtype=np.float32, count=rows * neurons).reshape(rows, neurons)


def provenance_of(
    model: Model,
    prompts_digest: str,
    *,
    pool: Pool,
    token_rule: TokenRule,
    truncate: bool,
    batch_tokens: int,
) -> Provenance:
    """Return the settings and versions needed to compute the same activations again."""
    return Provenance(
        model=model.name,
        architecture=model.architecture.family,
        fingerprint=model.checkpoint.fingerprint,
        revision=model.checkpoint.revision,
        attention=model.attention,
        dtype=model.dtype,
        device=str(model.device),
        padding_side=model.padding_side,
        token_rule=token_rule,
        pool=pool,
        truncated=truncate,
        batch_tokens=batch_tokens,
        prompts_digest=prompts_digest,
        versions=library_versions(),
        git_commit=git_commit(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        warnings=model.warnings,
    )
