"""Prompts -> activations."""

import datetime
import mmap
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from neuroscope.activations import Activations, Floats, Provenance, check_pooling
from neuroscope.errors import ResourceError
from neuroscope.extraction.batching import Batch, _batch, batches, tokenise
from neuroscope.extraction.budget import TokenBudget, usual_budget
from neuroscope.extraction.finite import FiniteCheck
from neuroscope.extraction.models import Model
from neuroscope.extraction.pooling import pooling
from neuroscope.extraction.reading import read_sites
from neuroscope.extraction.recorder import Keep
from neuroscope.extraction.riders import Rider
from neuroscope.files import size_text
from neuroscope.options import Pool
from neuroscope.progress import Progress, silent
from neuroscope.prompts import Prompts, PromptSet
from neuroscope.provenance import git_commit, library_versions
from neuroscope.sites import Site, resolve_sites
from neuroscope.tokens import TokenBlock

if TYPE_CHECKING:
    import torch


def extract(
    model: Model,
    prompts: Prompts | Sequence[str],
    sites: str | Sequence[str] = "resid_post",
    layers: str | int | Sequence[int] = "all",
    *,
    pool: str = "mean",
    token_rule: str = "content",
    truncate: bool = False,
    budget: int | None = None,
    allow_nonfinite: bool = False,
    progress: Progress = silent,
) -> Activations:
    """Activations of prompts at sites, in the order of the prompts, in memory.

    For more prompts than memory holds, `extract_to` writes them to disk as they come.

    Args:
        model: from `load_model`.
        prompts: a set, a file, or texts.
        sites: components (`mlp_act`), sites (`mlp_act.3`) or TransformerLens names.
        layers: `all`, `3`, `0-5`, `2,4`, `-1`, for sites named without a layer.
        pool: how a prompt's tokens become one row: `mean`, `max`, `last`, `first`; `none` keeps
            every token.
        token_rule: which tokens count: `content` (without special tokens) or `all`.
        truncate: cut prompts at the model's limit instead of refusing them.
        budget: tokens in a batch, padding included; what is usual for the device if not given.
        allow_nonfinite: keep NaN and infinity instead of refusing them.
        progress: told after each batch.

    Returns:
        float32, (prompts, neurons) for each site; with pool `none` a list of (tokens, neurons).

    Raises:
        SiteError, PromptError: no such site or layer; a prompt that cannot be read.
        NonfiniteError: a value is not finite.
    """
    known = PromptSet.of(prompts)
    check_pooling(pool, token_rule)
    wanted = resolve_sites(sites, layers, model.layer_count)
    batch_tokens = usual_budget(str(model.device)) if budget is None else budget
    token_budget = TokenBudget(batch_tokens)
    block = tokenise(model, known.prompts, truncate=truncate)
    progress("extract", 0, len(known))
    found = dict(
        record(
            model,
            block,
            wanted,
            pool=cast(Pool, pool),
            token_rule=token_rule,
            budget=token_budget,
            check=FiniteCheck(model.name, known.ids, allow=allow_nonfinite),
            progress=progress,
        )
    )
    ends = np.cumsum(block.kept_counts(token_rule))[:-1]
    arrays = {
        site: np.split(found[site], ends) if pool == "none" else found[site] for site in wanted
    }
    provenance = provenance_of(
        model,
        known.digest,
        pool=pool,
        token_rule=token_rule,
        truncate=truncate,
        batch_tokens=batch_tokens,
    )
    return Activations(known, block, arrays, provenance)


def record(
    model: Model,
    block: TokenBlock,
    sites: Sequence[Site],
    *,
    pool: Pool | None,
    token_rule: str,
    budget: TokenBudget,
    check: FiniteCheck,
    progress: Progress = silent,
    riders: Sequence[Rider] = (),
    shuffle: int | None = None,
) -> Generator[tuple[Site, Floats], None, None]:
    """Each site's values for a block of prompts, in forward order.

    Returns:
        float32, (prompts, neurons) in the block's order; with pool `none` (tokens, neurons), of
        the tokens that `token_rule` counts; nothing with pool None.
    """
    rows = _Rows(block, pool or "mean", token_rule, check)
    grouped = batches(model, block, token_rule=token_rule, budget=budget)
    if shuffle is not None:
        grouped = _shuffled(model, block, token_rule, budget, shuffle)
    reading = read_sites(
        model,
        grouped,
        sites,
        lambda batch: _reduction(batch, sites, pool, riders),
        budget,
    )
    read, total = 0, len(block.ids) * len(sites)
    progress("extract", 0, len(block))
    with closing(reading):
        for batch, site, (values, reduced) in reading:
            for rider, taken in zip(riders, reduced, strict=True):
                rider.add(site, batch, taken)
            if pool is not None:
                rows.put(site, batch, values)
            # by tokens, or the long prompts, which come first, would seem to take for ever
            read += int(block.lengths[batch.members].sum())
            progress("extract", len(block) * read // total, len(block))
            if pool is not None and rows.is_complete(site):
                yield site, rows.take(site)


def _reduction(
    batch: Batch, sites: Sequence[Site], pool: Pool | None, riders: Sequence[Rider]
) -> Keep:
    """Pools a tensor and lets the riders reduce it; a pass gives sites in forward order."""
    order = iter(sorted(set(sites), key=lambda site: site.order))
    pooled: Keep = pooling(pool, batch.kept) if pool else lambda tensor: None

    def keep(tensor: "torch.Tensor") -> tuple[Any, list[Any]]:
        site = next(order)
        return pooled(tensor), [rider.reduce(site, batch)(tensor) for rider in riders]

    return keep


def _shuffled(
    model: Model, block: TokenBlock, token_rule: str, budget: TokenBudget, seed: int
) -> Iterator[Batch]:
    """Batches of prompts in random order."""
    order = np.random.default_rng(seed).permutation(len(block))
    kept = block.kept(token_rule)
    start = 0
    while start < len(order):
        widths = np.maximum.accumulate(block.lengths[order[start:]])
        size = max(1, int((widths * np.arange(1, len(widths) + 1) <= budget()).sum()))
        yield _batch(model, block, order[start : start + size], kept, np.cumsum(kept) - 1)
        start += size


class _Rows:
    """Values of batches, put where their prompts or tokens stand in the block."""

    def __init__(self, block: TokenBlock, pool: str, token_rule: str, check: FiniteCheck):
        self._token_level, self._check = pool == "none", check
        self._count = int(block.kept_counts(token_rule).sum()) if self._token_level else len(block)
        self._found: dict[Site, Floats] = {}
        self._put: Counter[Site] = Counter()

    def put(self, site: Site, batch: Batch, values: "torch.Tensor") -> None:
        """Takes (rows of the batch, neurons)."""
        values = values.cpu()
        rows, owners = batch.members, batch.members
        if self._token_level:
            rows, owners = batch.token_rows, batch.token_owners
        self._check(site, values, owners)
        if site not in self._found:
            self._found[site] = _apart(self._count, values.shape[1])
        self._found[site][rows] = values.numpy()
        self._put[site] += len(rows)

    def is_complete(self, site: Site) -> bool:
        """Whether all rows of the block are there."""
        return self._put[site] == self._count

    def take(self, site: Site) -> Floats:
        """(rows of the block, neurons), held here no longer."""
        return self._found.pop(site)


def _apart(rows: int, neurons: int) -> Floats:
    """(rows, neurons) in memory of its own, given back as a whole.

    Among the small and short-lived tensors of a pass it would leave gaps behind, and memory would
    grow with the number of parts.

    Raises:
        ResourceError: there is not so much.
    """
    size = max(rows * neurons * 4, 1)
    try:
        space = mmap.mmap(-1, size)
    except OSError as error:
        raise ResourceError(
            f"memory has not the {size_text(size)} that the values of a site take"
            f" ({error.strerror}): extract them to disk, which takes a part at a time, or fewer"
            " prompts, or pooled values instead of every token"
        ) from error
    return np.frombuffer(space, dtype=np.float32, count=rows * neurons).reshape(rows, neurons)


def provenance_of(
    model: Model,
    prompts_digest: str,
    *,
    pool: str,
    token_rule: str,
    truncate: bool,
    batch_tokens: int,
) -> Provenance:
    """What must be known to get the same activations again."""
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
