"""Prompts -> activations."""

import datetime
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.activations import Activations, Provenance, check_pooling
from neuroscope.errors import ActivationError
from neuroscope.extraction.batching import Batch, batches, tokenise
from neuroscope.extraction.models import Model
from neuroscope.extraction.recorder import Recorder
from neuroscope.progress import Progress, silent
from neuroscope.prompts import PromptSet
from neuroscope.provenance import git_commit, library_versions
from neuroscope.sites import Site, resolve_sites

if TYPE_CHECKING:
    import torch


def extract(
    model: Model,
    prompts: PromptSet | Sequence[str],
    sites: str | Sequence[str] = "resid_post",
    layers: str | int | Sequence[int] = "all",
    *,
    pool: str = "mean",
    tokens: str = "content",
    truncate: bool = False,
    budget: int = 4096,
    seed: int = 0,
    progress: Progress = silent,
) -> Activations:
    """Activations of prompts at sites, in the order of the prompts.

    Args:
        model: from `load_model`.
        prompts: a set, or texts.
        sites: components (`mlp_act`), sites (`mlp_act.3`) or TransformerLens names.
        layers: `all`, `3`, `0-5`, `2,4`, `-1`, for sites named without a layer.
        pool: how a prompt's tokens become one row: `mean`, `max`, `last`, `first`; `none` keeps
            every token.
        tokens: which tokens count: `content` (without special tokens) or `all`.
        truncate: cut prompts at the model's limit instead of refusing them.
        budget: tokens in a batch, padding included.
        seed: recorded; a pass itself draws no random numbers.
        progress: told after each batch.

    Returns:
        float32, (prompts, neurons) for each site; with pool `none` a list of (tokens, neurons).

    Raises:
        SiteError, PromptError: no such site or layer; a prompt that cannot be read.
        ActivationError: a value is not finite.
    """
    prompts = PromptSet.of(prompts)
    check_pooling(pool, tokens)
    wanted = resolve_sites(sites, layers, model.layer_count)
    tokenised = tokenise(model, prompts, truncate=truncate)
    rows: dict[Site, list[Any]] = {site: [None] * len(prompts) for site in wanted}
    done = 0
    progress("extract", done, len(prompts))
    with Recorder(model, wanted) as recorder:
        for batch in batches(model, tokenised, rule=tokens, budget=budget):
            kept = recorder.run(batch.inputs(model), pooling(pool, batch))
            for site, values in kept.items():
                _store(rows[site], batch, values, model, site, prompts)
            done += len(batch.members)
            progress("extract", done, len(prompts))
    provenance = provenance_of(
        model, prompts, pool=pool, tokens=tokens, truncate=truncate, seed=seed
    )
    arrays = {site: rows[site] if pool == "none" else np.stack(rows[site]) for site in wanted}
    return Activations(prompts, tokenised, arrays, provenance)


def pooling(pool: str, batch: Batch) -> Callable[["torch.Tensor"], Any]:
    """What reduces a (batch, tokens, neurons) tensor to what is kept of each prompt.

    It runs inside the hook, where the tensor is, in float32: (batch, neurons), or at token level
    a list of (tokens, neurons).
    """
    kept = batch.kept  # (batch, tokens)
    weights = kept.float() / kept.sum(dim=1, keepdim=True)
    rows = kept.new_ones(len(kept)).nonzero().squeeze(1)
    first = kept.int().argmax(dim=1)
    last = kept.shape[1] - 1 - kept.flip(1).int().argmax(dim=1)
    reduce: dict[str, Callable[[torch.Tensor], Any]] = {
        "mean": lambda x: (weights.unsqueeze(1) @ x.float()).squeeze(1).cpu(),
        "max": lambda x: x.float().masked_fill(~kept.unsqueeze(2), -float("inf")).amax(1).cpu(),
        "first": lambda x: x[rows, first].float().cpu(),
        "last": lambda x: x[rows, last].float().cpu(),
        "none": lambda x: [one[at].float().cpu() for one, at in zip(x, kept, strict=True)],
    }
    return reduce[pool]


def provenance_of(
    model: Model, prompts: PromptSet, *, pool: str, tokens: str, truncate: bool, seed: int
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
        tokens=tokens,
        pool=pool,
        truncated=truncate,
        seed=seed,
        prompts_digest=prompts.digest,
        versions=library_versions(),
        git_commit=git_commit(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _store(
    rows: list[Any], batch: Batch, values: Any, model: Model, site: Site, prompts: PromptSet
) -> None:
    for index, value in zip(batch.members, values, strict=True):
        array = value.numpy()
        if not np.isfinite(array).all():
            raise ActivationError(
                f"'{model.name}' gives values that are not finite at {site} for prompt"
                f" '{prompts.prompts[index].id}': try dtype float32 or attention eager"
            )
        rows[index] = array
