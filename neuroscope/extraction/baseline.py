"""Mean and standard deviation of every neuron over varied text, computed once per model."""

import hashlib
import zipfile
import zlib
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.extraction.batching import Batch, tokenise
from neuroscope.extraction.budget import FIXED_BUDGET, TokenBudget
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.extract import record
from neuroscope.extraction.hardware import in_float64
from neuroscope.extraction.models import Model
from neuroscope.extraction.recorder import Keep
from neuroscope.files import atomic_write
from neuroscope.home import create_home, home
from neuroscope.options import Attention, Dtype, TokenRule
from neuroscope.progress import Progress, silent
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site, resolve_sites
from neuroscope.stats.moments import Moments

if TYPE_CHECKING:
    import torch

_SCHEMA = 2  # version of how values are computed


def baseline_prompts() -> PromptSet:
    """Return the varied sentences over which the usual activation of each neuron is measured."""
    text = (files("neuroscope") / "data" / "baseline_prompts.txt").read_text(encoding="utf-8")
    return PromptSet.of(text.splitlines())


def baseline_path(
    checkpoint: Checkpoint, component: str, dtype: Dtype, attention: Attention
) -> Path:
    """Return the path of the baseline of one component of a model; the file may not exist yet."""
    parts = (checkpoint.fingerprint, component, dtype, attention, baseline_prompts().digest)
    key = hashlib.sha256("|".join((*parts, str(_SCHEMA))).encode()).hexdigest()[:32]
    return home() / "baseline" / f"{key}.npz"


def ensure_baseline(model: Model, component: str, *, progress: Progress = silent) -> Path:
    """Return the path of a component's baseline at all layers; compute it unless it is complete."""
    path = baseline_path(model.checkpoint, component, model.dtype, model.attention)
    if is_complete(path):
        return path
    arrays: dict[str, Any] = {}
    for (rule, layer), moments in baseline_moments(model, component, progress=progress).items():
        arrays[f"{rule}.{layer}.count"] = moments.count
        arrays[f"{rule}.{layer}.mean"] = moments.mean
        arrays[f"{rule}.{layer}.m2"] = moments.m2
    create_home("baseline")
    with atomic_write(path) as file:
        np.savez(file, **arrays)
    return path


def is_complete(path: Path) -> bool:
    """Return whether a baseline exists and is undamaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return "content.0.count" in [name for name in arrays if arrays[name].size]
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, RuntimeError):
        return False


def read_baseline(path: Path, token_rule: TokenRule, layer: int) -> Moments:
    """Read the moments of one layer over the tokens that a token rule counts."""
    with np.load(path, allow_pickle=False) as arrays:
        count, mean, m2 = (
            arrays[f"{token_rule}.{layer}.{name}"] for name in ("count", "mean", "m2")
        )
    return Moments(int(count), mean, m2)


def baseline_moments(
    model: Model, component: str, *, progress: Progress = silent
) -> dict[tuple[TokenRule, int], Moments]:
    """Return the moments of each neuron over the baseline prompts, per token rule and layer."""
    prompts = baseline_prompts()
    rider = _TokenMoments()
    reading = record(
        model,
        tokenise(model, prompts.prompts, truncate=True),
        resolve_sites(component, "all", model.layer_count),
        pool=None,
        token_rule="content",
        budget=TokenBudget(FIXED_BUDGET),
        riders=[rider],
        progress=lambda task, done, total: progress("baseline", done, total),
    )
    for _ in reading:
        pass
    return rider.moments


class _TokenMoments:
    """Rider that computes the moments of each neuron, per token rule and layer.

    Moments are computed on the device, so that only (neurons,) arrays are copied from it.
    """

    def __init__(self) -> None:
        self.moments: dict[tuple[TokenRule, int], Moments] = {}

    def reduce(self, site: Site, batch: Batch) -> Keep:
        """Return the function that computes the moments of a batch at one site."""
        return partial(_moments, batch)

    def add(self, site: Site, batch: Batch, reduced: dict[TokenRule, Moments]) -> None:
        """Merge the moments of a batch into those of all batches."""
        for rule, moments in reduced.items():
            previous = self.moments.get((rule, site.layer))
            self.moments[rule, site.layer] = previous.merge(moments) if previous else moments


def _moments(batch: Batch, values: "torch.Tensor") -> dict[TokenRule, Moments]:
    """Return the moments of a (batch, tokens, neurons) tensor over its tokens, per token rule."""
    return {
        "content": _moments_of(values, batch.kept),
        "all": _moments_of(values, batch.mask.bool()),
    }


def _moments_of(values: "torch.Tensor", kept: "torch.Tensor") -> Moments:
    """Return the moments over the tokens for which `kept`, (batch, tokens), is true."""
    tokens = in_float64(values[kept.to(values.device)])  # (tokens, neurons)
    mean = tokens.mean(dim=0)
    m2 = ((tokens - mean) ** 2).sum(dim=0)
    return Moments(len(tokens), mean.cpu().numpy(), m2.cpu().numpy())
