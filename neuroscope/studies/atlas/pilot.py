"""Pilot: estimates that the histograms of an atlas need before the passes over all prompts.

A random sample of the selection half gives the edges of each neuron's bins, and a regression of
each neuron on the covariates of a prompt: its length, punctuation and source.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import TokenBudget, usual_budget
from neuroscope.extraction.extract import record
from neuroscope.extraction.finite import FiniteCheck
from neuroscope.extraction.models import Model
from neuroscope.files import atomic_write
from neuroscope.progress import Progress
from neuroscope.prompts import Prompt
from neuroscope.sites import Site
from neuroscope.stats.confounds import Design, fit, residuals
from neuroscope.stats.histograms import edges_of
from neuroscope.studies.atlas.topics import TopicIndex
from neuroscope.studies.store.spec import ExtractionSpec
from neuroscope.tokens import TokenBlock


@dataclass(frozen=True, eq=False)
class SitePilot:
    """Edges and coefficients of the neurons of a site."""

    edges: NDArray[np.float32]
    """(neurons, bins - 1) interior edges of the bins."""
    residual_edges: NDArray[np.float32]
    """(neurons, bins - 1) interior edges of the bins of the residuals."""
    coefficients: NDArray[np.float64]
    """(columns, neurons) of the regression on the covariates."""
    low: NDArray[np.float32]
    """(neurons,) value up to which a prompt may be among the weakest ones."""
    high: NDArray[np.float32]
    """(neurons,) value from which a prompt may be among the strongest ones."""


@dataclass(frozen=True, eq=False)
class Pilot:
    """Edges and regressions of all sites."""

    design: Design
    """Columns of the regression."""
    sites: Mapping[Site, SitePilot]

    def design_matrix(
        self, topics: TopicIndex, indices: NDArray[np.int64], block: TokenBlock
    ) -> NDArray[np.float64]:
        """Return the (prompts, columns) matrix of the regression for some prompts.

        Args:
            topics: what is known of all prompts.
            indices: (prompts,) indices of the prompts.
            block: tokens of these prompts.
        """
        return self.design.matrix(*covariates_of(topics, indices, block))

    def save(self, path: Path) -> None:
        """Write the pilot as a NumPy file, atomically."""
        arrays: dict[str, Any] = {
            f"design/{name}": values for name, values in self.design.to_arrays().items()
        }
        for site, pilot in self.sites.items():
            arrays |= {f"{site}/{name}": values for name, values in vars(pilot).items()}
        with atomic_write(path) as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Pilot":
        """Read a pilot that `save` has written."""
        groups: dict[str, dict[str, Any]] = {}
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays:
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = arrays[key]
        design = Design.from_arrays(groups.pop("design", {}))  # empty if no number varies
        sites = {Site.parse(name): SitePilot(**fields) for name, fields in groups.items()}
        return cls(design, sites)


def covariates_of(
    topics: TopicIndex, indices: NDArray[np.int64], block: TokenBlock
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.str_]]]:
    """Return the numeric and the categorical covariates of prompts, by name."""
    tokens = block.kept_counts("content").astype(np.float64)
    numbers = {"tokens": tokens} | {
        name: values[indices] for name, values in topics.numbers.items()
    }
    return numbers, {"source": topics.sources[indices]}


def run_pilot(
    model: Model,
    spec: ExtractionSpec,
    topics: TopicIndex,
    count: int,
    examples: int,
    progress: Progress,
) -> Pilot:
    """Run a random sample of the selection half through a model.

    Args:
        model: loaded model.
        spec: extraction of all prompts.
        topics: what is known of the prompts.
        count: largest number of prompts.
        examples: number of strongest and of weakest prompts that the atlas keeps per neuron.
        progress: callback that is called after each batch.

    Raises:
        NonfiniteError: a value is not finite.
        ResourceError: there is not enough memory.
    """
    indices = topics.pilot(count)
    chosen = chosen_prompts(spec.prompts, indices)
    block = tokenise(model, chosen, truncate=spec.truncate)
    numbers, groups = covariates_of(topics, indices, block)
    design = Design.of(numbers, groups)
    matrix = design.matrix(numbers, groups)
    recorded = record(
        model,
        block,
        spec.sites,
        pool=spec.pool,
        token_rule=spec.token_rule,
        budget=TokenBudget(usual_budget(str(model.device))),
        check=FiniteCheck(model, [prompt.id for prompt in chosen]),
        progress=progress,
    )
    return Pilot(design, {site: site_pilot(values, matrix, examples) for site, values in recorded})


def site_pilot(
    values: NDArray[np.float32], matrix: NDArray[np.float64], examples: int
) -> SitePilot:
    coefficients = fit(matrix, values)
    remaining = residuals(matrix, values, coefficients)
    edges, residual_edges = (
        np.ascontiguousarray(edges_of(sample)) for sample in (values, remaining)
    )
    # twice as many as needed, as other batches may change the last bits of the values
    rank = min(2 * examples, len(values)) - 1
    ordered = np.partition(values, [rank, len(values) - 1 - rank], axis=0)
    return SitePilot(
        edges, residual_edges, coefficients, ordered[rank], ordered[len(values) - 1 - rank]
    )


def chosen_prompts(
    prompts: Iterable[Prompt], indices: Sequence[int] | NDArray[np.int64]
) -> list[Prompt]:
    """Return the prompts at some indices, reading all prompts once."""
    wanted = set(np.asarray(indices).tolist())
    return [prompt for index, prompt in enumerate(prompts) if index in wanted]
