"""A probe: what every neuron of a model does at a few prompts, token by token."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import TYPE_CHECKING

import numpy as np

from neuroscope.activations import Activations, Floats
from neuroscope.errors import ExperimentError, ResourceError, SiteError
from neuroscope.extraction.baseline import ensure_baseline, read_baseline
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import FIXED_BUDGET
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import Model, check_model
from neuroscope.files import size_text
from neuroscope.progress import Progress, silent
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site, parse_site, resolve_sites
from neuroscope.stats.moments import Moments
from neuroscope.studies.compare.result import ComparisonRow
from neuroscope.studies.compare.rows import compare_site, token_notes

if TYPE_CHECKING:
    import pandas as pd

_VIEW = "span"
"""View of the comparison: the words that differ."""
MOST_COMPARED = 6
"""Number of prompts up to which every pair is compared; of more, each with the first."""


@dataclass(frozen=True)
class StrongNeuron:
    """Neuron that is unusually active at one of the prompts."""

    neuron: str
    """Name, such as `mlp_act.3.57`."""
    unit: int
    """Index of the neuron in its layer."""
    values: tuple[float, ...]
    """Mean activation over the content tokens of each prompt."""
    z: tuple[float, ...]
    """Distance of each value from the neuron's mean over the reference sentences, in standard
    deviations over their tokens; 0 for a neuron that never varies there."""


@dataclass(frozen=True, eq=False)
class Probe:
    """Activations of a model at a few prompts, at one component of some layers.

    >>> found = ns.probe(model, ["The nurse is a man", "The nurse is a woman"], "mlp_act")
    >>> found.values(3).shape   # (prompts, neurons)
    (2, 1536)
    >>> found.strongest(3, top=1)[0].neuron
    'mlp_act.3.1477'
    """

    component: str
    activations: Activations[list[Floats]]
    """Values at every token, special tokens included."""
    reference: Mapping[int, Moments]
    """Layer -> moments of its neurons over the content tokens of the reference sentences."""
    rows: tuple[ComparisonRow, ...]
    """Similarity of the prompts of each pair in the words that differ, layer by layer; empty for a
    single prompt."""
    notes: tuple[str, ...]
    """Warnings about the values."""
    means: Mapping[int, Floats]
    """Layer -> (prompts, neurons) mean over the content tokens of each prompt."""

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.activations.provenance.model

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that were read, in ascending order."""
        return tuple(self.means)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the values take."""
        tokens = sum(
            array.nbytes for arrays in self.activations.arrays.values() for array in arrays
        )
        reference = sum(own.mean.nbytes + own.m2.nbytes for own in self.reference.values())
        return tokens + reference + sum(array.nbytes for array in self.means.values())

    def values(self, layer: int) -> Floats:
        """Return the mean over the content tokens of each prompt, (prompts, neurons).

        Raises:
            SiteError: the layer was not read.
        """
        if layer not in self.means:
            known = ", ".join(map(str, self.layers))
            raise SiteError(f"layer {layer} was not read", remedy=f"choose from {known}")
        return self.means[layer]

    def z(self, layer: int) -> Floats:
        """Return `values` as `StrongNeuron.z`, (prompts, neurons)."""
        return self.reference[layer].standardise(self.values(layer)).astype(np.float32)

    def strongest(self, layer: int, top: int = 10) -> list[StrongNeuron]:
        """Return the neurons of a layer with the largest |z| at any prompt, the largest first."""
        values, z = self.values(layer), self.z(layer)
        order = np.argsort(-np.abs(z).max(axis=0), kind="stable")[:top]
        return [
            StrongNeuron(
                f"{self.component}.{layer}.{unit}",
                unit,
                tuple(values[:, unit].tolist()),
                tuple(z[:, unit].tolist()),
            )
            for unit in order.tolist()
        ]

    def to_frame(self, layer: int) -> "pd.DataFrame":
        """Return one row per neuron of a layer and prompt: neuron, unit, prompt, value and z.

        Raises:
            SiteError: the layer was not read.
        """
        import pandas as pd

        values, z, texts = self.values(layer), self.z(layer), self.activations.prompts.texts
        prompts, neurons = values.shape
        units, codes = np.arange(neurons), np.tile(np.arange(prompts), neurons)
        names = [f"{self.component}.{layer}.{unit}" for unit in units]
        return pd.DataFrame(
            {
                "neuron": np.repeat(names, prompts),
                "unit": np.repeat(units, prompts),
                "prompt": pd.Categorical.from_codes(codes, pd.Index(texts)),
                "value": values.T.ravel(),
                "z": z.T.ravel(),
            }
        )

    def at_tokens(self, neuron: str) -> list[Floats]:
        """Return a neuron's value at every token of each prompt, special tokens included.

        Raises:
            SiteError: the probe has no such neuron.
        """
        layer, unit = self.place_of(neuron)
        arrays = self.activations[Site(self.component, layer)]
        return [array[:, unit] for array in arrays]

    def place_of(self, neuron: str) -> tuple[int, int]:
        """Return the layer and the unit of a neuron, such as `mlp_act.3.57`.

        Raises:
            SiteError: the probe has no such neuron.
        """
        site, _, unit = neuron.rpartition(".")
        component, layer = parse_site(site)
        if component != self.component or layer is None:
            raise SiteError(
                f"the probe reads {self.component}, not '{neuron}'",
                remedy=f"write, for example, '{self.component}.{self.layers[0]}.0'",
            )
        width = self.values(layer).shape[1]
        if not re.fullmatch("[0-9]{1,9}", unit) or int(unit) >= width:
            raise SiteError(
                f"there is no neuron '{neuron}'",
                remedy=f"the neurons of {site} are {site}.0 to {site}.{width - 1}",
            )
        return layer, int(unit)


def probe(
    model: Model,
    prompts: PromptSet | Sequence[str],
    site: str = "mlp_act",
    layers: str | int | Sequence[int] = "all",
    *,
    truncate: bool = False,
    most_bytes: int | None = None,
    progress: Progress = silent,
) -> Probe:
    """Read what every neuron of a model does at a few prompts.

    Nothing is recorded in MLflow; only the model's baseline statistics are stored.

    Args:
        model: model from `load_model`.
        prompts: one or more prompts.
        site: component such as `mlp_act`, with or without a layer.
        layers: layers to read if the site names none: `all`, `3`, `0-5`, `2,4` or `-1`.
        truncate: whether to truncate prompts at the model's limit.
        most_bytes: largest size of the values in memory; None for any.
        progress: callback that receives the current task, and how much of it is done.

    Raises:
        ExperimentError: two prompts are the same.
        ResourceError: the values take more than `most_bytes`, or do not fit into memory.
        ModelError, PromptError, SiteError, NonfiniteError: as in `extract`.
    """
    check_model(model)
    prompt_set = PromptSet.of(prompts)
    if len(set(prompt_set.texts)) < len(prompt_set):
        raise ExperimentError("two prompts are the same", remedy="give each prompt once")
    component, _ = parse_site(site)
    if most_bytes is not None:
        tokens = tokenise(model, prompt_set.prompts, truncate=truncate)
        count = int(tokens.kept_counts("all").sum()) * model.checkpoint.neurons(component)
        size = 4 * count * len(resolve_sites(site, layers, model.layer_count))
        if size > most_bytes:
            raise ResourceError(
                f"the values take {size_text(size)}, more than {size_text(most_bytes)}",
                remedy="read fewer or shorter prompts, or fewer layers",
            )
    read = extract(
        model,
        prompt_set,
        site,
        layers,
        pool="none",
        token_rule="all",
        truncate=truncate,
        budget=FIXED_BUDGET,
        progress=progress,
    )
    baseline = ensure_baseline(model, component, progress=progress)
    pairs = _pairs(prompt_set.texts)
    content = [tokens.content for tokens in read.tokens]
    rows = (compare_site(read, own, baseline, pairs, views=[_VIEW]) for own in read)
    return Probe(
        component,
        read,
        {own.layer: read_baseline(baseline, "content", own.layer) for own in read},
        tuple(chain.from_iterable(rows)),
        read.provenance.warnings + token_notes(read, pairs),
        {own.layer: _means(read[own], content) for own in read},
    )


def _pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of prompts that are compared."""
    if len(texts) <= MOST_COMPARED:
        return list(combinations(texts, 2))
    return [(texts[0], other) for other in texts[1:]]


def _means(arrays: Sequence[Floats], content: Sequence[np.ndarray]) -> Floats:
    """Return the mean over the content tokens of each prompt, (prompts, neurons)."""
    return np.stack([array[own].mean(axis=0) for array, own in zip(arrays, content, strict=True)])
