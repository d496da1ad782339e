"""Mean and spread of every neuron over the shipped reference prompts, kept per model."""

import hashlib
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.activations import TOKEN_RULES
from neuroscope.extraction.batching import Batch, batches, tokenise
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.models import Model
from neuroscope.extraction.reading import read_sites
from neuroscope.files import atomic_write
from neuroscope.home import create_home, home
from neuroscope.progress import Progress, silent
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site
from neuroscope.stats.moments import Moments

if TYPE_CHECKING:
    import torch

_SCHEMA = 1


def baseline_prompts() -> PromptSet:
    """The varied sentences, written for this purpose, that tell what is usual for a neuron."""
    text = (files("neuroscope") / "data" / "baseline_prompts.txt").read_text(encoding="utf-8")
    return PromptSet.of(text.splitlines())


def baseline_path(checkpoint: Checkpoint, component: str, dtype: str, attention: str) -> Path:
    """Where the statistics of a model's component are kept once they are computed."""
    parts = (checkpoint.fingerprint, component, dtype, attention, baseline_prompts().digest)
    key = hashlib.sha256("|".join((*parts, str(_SCHEMA))).encode()).hexdigest()[:32]
    return home() / "baseline" / f"{key}.npz"


def ensure_baseline(model: Model, component: str, *, progress: Progress = silent) -> Path:
    """Computes the statistics of all layers of a component unless they are kept already."""
    path = baseline_path(model.checkpoint, component, model.dtype, model.attention)
    if path.is_file():
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


def read_baseline(path: Path, rule: str, layer: int) -> Moments:
    """Kept statistics of one layer over the tokens that `rule` (`content`, `all`) counts."""
    with np.load(path, allow_pickle=False) as arrays:
        count, mean, m2 = (arrays[f"{rule}.{layer}.{name}"] for name in ("count", "mean", "m2"))
    return Moments(int(count), mean, m2)


def baseline_moments(
    model: Model, component: str, *, progress: Progress = silent
) -> dict[tuple[str, int], Moments]:
    """(token rule, layer) -> moments over the tokens of the reference prompts.

    They are reduced where the activations are, so that no more than (neurons,) leaves a layer.
    """
    prompts = baseline_prompts()
    sites = [Site(component, layer) for layer in range(model.layer_count)]
    found: dict[tuple[str, int], Moments] = {}
    block = tokenise(model, prompts.prompts, truncate=True)
    budget = TokenBudget(4096)  # the same statistics each time
    read = 0
    made = batches(model, block, token_rule="content", budget=budget)
    reading = read_sites(model, made, sites, lambda one: partial(_moments, one), budget)
    for batch, site, moments in reading:
        for rule, part in zip(TOKEN_RULES, moments, strict=True):
            before = found.get((rule, site.layer))
            found[rule, site.layer] = before.merge(part) if before else part
        read += len(batch.members)
        progress("reference statistics", read // len(sites), len(prompts))
    return found


def _moments(batch: Batch, values: "torch.Tensor") -> tuple[Moments, Moments]:
    """Moments of a (batch, tokens, neurons) tensor over its content tokens and over all."""

    def over(at: "torch.Tensor") -> Moments:
        block = values[at.to(values.device)]  # (tokens, neurons)
        block = (block.cpu() if block.device.type == "mps" else block).double()  # mps has none
        mean = block.mean(dim=0)
        m2 = ((block - mean) ** 2).sum(dim=0)
        return Moments(len(block), mean.cpu().numpy(), m2.cpu().numpy())

    return over(batch.kept), over(batch.mask.bool())
