"""Extracts activations of prompts into memory, or as a stream of sites."""

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
from neuroscope.extraction.models import Model
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

    For more prompts than fit into memory, `extract_to` writes them to disk part by part.

    Args:
        model: from `load_model`.
        prompts: a set, a file, or texts.
        sites: components (`mlp_act`), sites (`mlp_act.3`) or TransformerLens names.
        layers: `all`, `3`, `0-5`, `2,4` or `-1`, for sites named without a layer.
        pool: how a prompt's tokens become one row: `mean`, `max`, `last`, `first`; `none` keeps
            every token.
        token_rule: which tokens count: `content` (without special tokens) or `all`.
        truncate: cut prompts at the model's limit instead of refusing them.
        budget: tokens per batch, padding included; by default what is usual for the device.
        allow_nonfinite: keep NaN and infinity instead of refusing them.
        progress: called after each batch.

    Returns:
        float32, (prompts, neurons) per site; with pool `none` a list with one (tokens, neurons)
        array per prompt. For `logits` the neurons are the tokens of the vocabulary.

    Raises:
        SiteError: a site or layer does not exist.
        PromptError: a prompt cannot be read.
        NonfiniteError: a value is not finite.
        ResourceError: there is not enough memory.
        NeuroscopeError: an option has an unknown value.
    """
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
            check=FiniteCheck(model.name, prompt_set.ids, allow=allow_nonfinite),
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
    """Yield each site's values for a block of prompts, in forward order.

    Args:
        model: from `load_model`.
        block: the prompts, from `tokenise`.
        sites: where to read.
        pool: how a prompt's tokens become one row; None keeps and yields nothing, so that only
            the riders take what they need. The generator must be exhausted all the same.
        token_rule: which tokens count, `content` or `all`.
        budget: tokens per batch, padding included.
        check: refuses or counts pooled values that are not finite; without it any value passes.
        riders: statistics to compute in the same passes.
        shuffle: seed with which prompts are grouped into batches at random instead of by length.
        progress: called after each batch.

    Yields:
        A site and its values, float32: (prompts, neurons) in the block's order; with pool `none`
        (tokens, neurons), of the tokens that `token_rule` counts.

    Raises:
        SiteError: the model does not have a site.
        NonfiniteError: a pooled value is not finite.
        ResourceError: there is not enough memory.
    """
    rows = None if pool is None else _Rows(block, pool, token_rule, check)
    aboard = [*riders] if rows is None else [rows, *riders]
    reading = read_sites(
        model,
        batches(model, block, token_rule=token_rule, budget=budget, shuffle=shuffle),
        sites,
        lambda site, batch: reduce_together(aboard, site, batch),
        budget,
    )
    tokens, total = 0, len(block.ids) * len(sites)
    progress("extract", 0, len(block))
    with closing(reading):
        for batch, site, reduced in reading:
            for rider, value in zip(aboard, reduced, strict=True):
                rider.add(site, batch, value)
            # counted in tokens: the first batches have the longest prompts and take longest
            tokens += int(block.lengths[batch.members].sum())
            progress("extract", len(block) * tokens // total, len(block))
            if rows is not None and rows.is_complete(site):
                yield site, rows.take(site)


class _Rows:
    """Pooled values of all batches in the block's order: the rider that keeps activations."""

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
        """Return the pooling of a batch."""
        return self._pooling(batch)

    def add(self, site: Site, batch: Batch, reduced: "torch.Tensor") -> None:
        """Put (rows of the batch, neurons) into the rows of the block."""
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
        """Return whether all rows of the block are there."""
        return self._filled[site] == self._count

    def take(self, site: Site) -> Floats:
        """Return (rows of the block, neurons), which are no longer held here."""
        return self._arrays.pop(site)


def _allocate(rows: int, neurons: int) -> Floats:
    """Return an uninitialised (rows, neurons) array in memory of its own.

    That is returned to the system at once. On the heap, among the small tensors of a pass, large
    arrays would leave gaps, and memory would grow with the number of parts.

    Raises:
        ResourceError: there is not enough memory.
    """
    size = max(rows * neurons * 4, 1)
    try:
        space = mmap.mmap(-1, size)
    except OSError as error:
        raise ResourceError(
            f"cannot allocate {size_text(size)} for the activations of one site ({error.strerror})",
            remedy="extract to disk, which holds one part at a time, or read fewer prompts, or pool"
            " their tokens",
        ) from error
    return np.frombuffer(space, dtype=np.float32, count=rows * neurons).reshape(rows, neurons)


def provenance_of(
    model: Model,
    prompts_digest: str,
    *,
    pool: Pool,
    token_rule: TokenRule,
    truncate: bool,
    batch_tokens: int,
) -> Provenance:
    """Return everything needed to compute the same activations again."""
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
    )
