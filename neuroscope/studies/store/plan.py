"""Plan of an extraction: its budget, its division into parts, and the disk space it needs."""

import logging
from pathlib import Path

from neuroscope.errors import NeuroscopeError, Option
from neuroscope.extraction.budget import TokenBudget, usual_budget
from neuroscope.extraction.extract import provenance_of
from neuroscope.extraction.models import Model
from neuroscope.files import size_text
from neuroscope.storage.disk import check_free_space, stored_bytes
from neuroscope.storage.manifest import Manifest
from neuroscope.storage.parts import PARQUET
from neuroscope.studies.store.division import Estimate, PartLimits
from neuroscope.studies.store.spec import ExtractionSpec

_LARGE_BYTES = 100e6
"""Size in bytes from which an extraction's size is logged before it starts."""

_log = logging.getLogger("neuroscope")


def plan(
    spec: ExtractionSpec,
    folder: Path,
    model: Model,
    begun: Manifest | None,
    *,
    values: bool,
    budget: int | None,
    limits: PartLimits,
) -> Manifest:
    """Plan the contents of a folder, and check that they fit on the disk.

    Args:
        spec: specification of the extraction.
        folder: folder that receives the activations.
        model: model that computes them.
        begun: manifest of the same extraction, if the folder contains a part of it.
        values: whether the values are stored, or only statistics of them.
        budget: number of tokens per batch. By default it is that of the composition, else that
            with which the folder was begun on the same device, else the usual one of the device.
        limits: limits on the size of a part.

    Returns:
        Manifest of the folder before any part is stored.

    Raises:
        ResourceError: there is not enough disk space; the size of statistics is not known in
            advance.
        NeuroscopeError: the budget is less than one token, or is not that of the composition.
    """
    batch_tokens = _batch_tokens(spec, model, begun, budget)
    estimate = Estimate.of(spec, model, values=values, limits=limits)
    prompts_per_part = estimate.prompts_per_part(batch_tokens)
    _check_disk(folder, spec, estimate.bytes(prompts_per_part))
    provenance = provenance_of(
        model,
        spec.prompts.digest,
        pool=spec.pool,
        token_rule=spec.token_rule,
        truncate=spec.truncate,
        batch_tokens=batch_tokens,
    )
    tokens_per_part = estimate.tokens_per_part(prompts_per_part)
    return Manifest(spec.key, len(spec.prompts), prompts_per_part, tokens_per_part, provenance)


def _batch_tokens(
    spec: ExtractionSpec, model: Model, begun: Manifest | None, budget: int | None
) -> int:
    if spec.composition:
        fixed = spec.composition.batch_tokens
        if budget not in (None, fixed):
            raise NeuroscopeError(
                f"a budget of {budget} tokens contradicts the composition's {fixed}",
                options=[Option("budget", None, "leave out the budget")],
            )
        budget = fixed
    if budget is None and begun and begun.latest.device == str(model.device):
        budget = begun.latest.batch_tokens
    return TokenBudget(usual_budget(str(model.device)) if budget is None else budget)()


def _check_disk(folder: Path, spec: ExtractionSpec, size: int) -> None:
    """Log the size of a large extraction, and raise ResourceError if it does not fit."""
    remaining = size - stored_bytes(folder, [PARQUET])
    pooled = [Option("pool", "mean", "store one row per prompt")] if spec.pool == "none" else []
    check_free_space(folder, remaining, pooled)
    if remaining > _LARGE_BYTES:
        _log.info("about %s will be written to %s", size_text(remaining), folder)
