"""Directions of topics: what a whole layer knows of a topic, beside its best neuron."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import TokenBudget, usual_budget
from neuroscope.extraction.extract import record
from neuroscope.extraction.memory import give_back_memory
from neuroscope.extraction.models import Model
from neuroscope.extraction.projecting import Projections
from neuroscope.progress import Progress
from neuroscope.prompts import Prompt
from neuroscope.sites import Site
from neuroscope.stats.moments import Doubles
from neuroscope.stats.selectivity import auroc
from neuroscope.studies.atlas.counts import SiteCounts
from neuroscope.studies.atlas.frames import SiteMeasures
from neuroscope.studies.atlas.measures import strength
from neuroscope.studies.atlas.pilot import chosen_prompts
from neuroscope.studies.atlas.topics import Chosen, TopicIndex
from neuroscope.studies.store.spec import ExtractionSpec

if TYPE_CHECKING:
    import pandas as pd

_MOST_PROMPTS = 4096
"""Maximum number of random held-out prompts on which directions are measured."""
_FEWEST_PROMPTS = 100
"""Prompts on a topic, and off it, up to which more are measured for this topic alone."""


def direction_areas(
    model: Model,
    spec: ExtractionSpec,
    prompts: Iterable[Prompt],
    topics: TopicIndex,
    counts: Mapping[Site, SiteCounts],
    progress: Progress,
) -> dict[Site, Doubles]:
    """Return the AUROC of each topic's direction at each site, (topics,).

    The direction is the difference of the mean activations in and outside a topic in the selection
    half, as DiffMean in AxBench (arXiv 2501.17148); the AUROC is that of the projections of prompts
    of the held-out half, a random sample if there are many, with more prompts of rare topics.
    """
    sample = topics.sample_topics(_MOST_PROMPTS, _FEWEST_PROMPTS)
    chosen = chosen_prompts(prompts, sample.indices)
    give_back_memory()  # of the measures
    directions = {site: _directions(counts[site]) for site in spec.sites}
    projections = Projections(spec.pool, directions, len(chosen))
    for _ in record(
        model,
        tokenise(model, chosen, truncate=spec.truncate),
        spec.sites,
        pool=None,
        token_rule=spec.token_rule,
        budget=TokenBudget(usual_budget(str(model.device))),
        riders=[projections],
        progress=progress,
    ):
        pass
    return {site: _areas(scores, sample) for site, scores in projections.scores.items()}


def _directions(counts: SiteCounts) -> NDArray[np.float32]:
    """Return the direction of each topic, (neurons, topics)."""
    moments = counts.moments[0]
    inside = moments.select(slice(1, None))
    outside = inside.complement(moments.select(slice(1)))
    return np.ascontiguousarray((inside.mean - outside.mean).T, dtype=np.float32)


def _areas(scores: NDArray[np.float32], sample: Chosen) -> Doubles:
    """Return the AUROC of each topic's own scores, (topics,).

    Args:
        scores: (prompts, topics) of the prompts of the sample.
        sample: prompts on and off each topic.
    """
    areas = []
    for own, inside, outside in zip(scores.T, sample.inside.T, sample.outside.T, strict=True):
        either = inside | outside
        areas.append(auroc(own[either, None], inside[either])[0])
    return np.array(areas)


def direction_frame(
    areas: Mapping[Site, Doubles], measures: Sequence[SiteMeasures]
) -> "pd.DataFrame":
    """Return one row per topic and layer, with the neuron that is best in the selection half."""
    import pandas as pd

    rows = []
    for part in measures:
        selectivity = part.selectivity
        best = np.nanargmax(strength(selectivity.auroc, selectivity.polarity), axis=0)
        reached = strength(selectivity.auroc_heldout, selectivity.polarity)
        for topic, neuron in enumerate(best.tolist()):
            rows.append(
                {
                    "topic": topic,
                    "layer": part.site.layer,
                    "auroc_heldout": areas[part.site][topic],
                    "best_neuron": part.first + neuron,
                    "best_auroc": reached[neuron, topic],
                }
            )
    return pd.DataFrame(rows)
