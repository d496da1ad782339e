"""Frames of an atlas: the rows of one table of the database, or of one table and site."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.counting import Extremes
from neuroscope.extraction.neuron_weights import Ranked, WeightProfile
from neuroscope.prompts import Prompt
from neuroscope.sites import Site
from neuroscope.stats.histograms import quantiles
from neuroscope.stats.moments import Doubles
from neuroscope.studies.atlas.counts import SiteCounts
from neuroscope.studies.atlas.measures import (
    Confounds,
    Selectivity,
    Verdicts,
)
from neuroscope.studies.atlas.topics import TopicIndex
from neuroscope.tokens import TokenBlock, Vocabulary

if TYPE_CHECKING:
    import pandas as pd

_LEVELS = {"q001": 0.001, "q01": 0.01, "q50": 0.5, "q99": 0.99, "q999": 0.999}
_RANDOM = 5  # random prompts per neuron


@dataclass(frozen=True, eq=False)
class SiteMeasures:
    """Counts and measures of one site."""

    site: Site
    first: int
    """Number of its first neuron."""
    counts: SiteCounts
    edges: NDArray[np.float32]
    """(neurons, bins - 1) interior edges of the bins."""
    selectivity: Selectivity
    verdicts: Verdicts
    q: Doubles
    """(neurons, topics)."""
    entropy: Doubles
    """(neurons,) NaN where it is not defined."""
    entropy_selected: NDArray[np.bool_]

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(neurons,) numbers of the neurons in the atlas."""
        return self.first + np.arange(len(self.edges))


def neuron_frame(
    measures: SiteMeasures, profile: WeightProfile | None, tokens: Sequence[str]
) -> "pd.DataFrame":
    """Return the rows of the neurons of a site.

    Args:
        measures: measures of the site.
        profile: tokens and neighbours of all neurons, from the weights; None if unknown.
        tokens: text of each token, by its id.
    """
    import pandas as pd

    counts, site = measures.counts, measures.site
    everything = counts.counts[:, 0].sum(axis=0, dtype=np.int64)  # (neurons, bins)
    low, high = -counts.weakest.values[0], counts.strongest.values[0]
    whole = counts.moments[0].merge(counts.moments[1])
    prompts = int(whole.count[0])
    levels = quantiles(everything, measures.edges, low, high, np.array([*_LEVELS.values()]))
    edges = np.column_stack([low, measures.edges, high])
    units = np.arange(len(low))
    span = slice(measures.first, measures.first + len(low))
    frame = {
        "neuron": measures.numbers,
        "name": [f"{site}.{unit}" for unit in units],
        "component": site.component,
        "layer": site.layer,
        "unit": units,
        "mean": whole.mean[0],
        "sd": np.sqrt(whole.m2[0] / max(prompts - 1, 1)),
        "low": low,
        "high": high,
        **dict(zip(_LEVELS, levels.T, strict=True)),
        "active": counts.active[0] / prompts,
        "eta_squared": measures.selectivity.eta_squared,
        "entropy": measures.entropy,
        "entropy_selected": pd.array(measures.entropy_selected, dtype="boolean"),
        "general": False,
        "promotes": _token_scores(profile.promotes if profile else None, span, tokens),
        "suppresses": _token_scores(profile.suppresses if profile else None, span, tokens),
        "neighbours": _neighbours(profile.neighbours if profile else None, span),
        "edges": list(edges.astype(np.float32)),
        "counts": list(everything.astype(np.int32)),
    }
    rows = pd.DataFrame(frame)
    rows.loc[np.isnan(measures.entropy), "entropy_selected"] = pd.NA
    return rows


def _token_scores(ranked: Ranked | None, span: slice, tokens: Sequence[str]) -> list[Any]:
    """Return the tokens of each neuron of a span with their scores."""
    if ranked is None:
        return [None] * (span.stop - span.start)
    return [
        [
            {"token": tokens[id], "score": score}
            for id, score in zip(ids.tolist(), scores.tolist(), strict=True)
        ]
        for ids, scores in zip(ranked.indices[span], ranked.scores[span], strict=True)
    ]


def _neighbours(ranked: Ranked | None, span: slice) -> list[Any]:
    """Return the neighbours of each neuron of a span with their cosines."""
    if ranked is None:
        return [None] * (span.stop - span.start)
    return [
        [
            {"neuron": number, "cosine": cosine}
            for number, cosine in zip(numbers.tolist(), cosines.tolist(), strict=True)
        ]
        for numbers, cosines in zip(ranked.indices[span], ranked.scores[span], strict=True)
    ]


def selectivity_frame(measures: SiteMeasures) -> "pd.DataFrame":
    """Return the entries of a site, one row per neuron and topic."""
    import pandas as pd

    measured, verdicts = measures.selectivity, measures.verdicts
    neurons, topics = measured.auroc.shape
    columns = {
        name: getattr(measured, name).ravel()
        for name in (
            *("auroc", "auroc_heldout", "auroc_error", "ap_heldout", "ap_error", "one_vs_one"),
            *("d", "r", "p", "polarity", "partial_auroc"),
        )
    }
    rival = measured.rival.ravel()
    selective = verdicts.selective.ravel()
    inside = measures.counts.counts[:, 1:].sum(axis=0, dtype=np.int64)  # (topics, neurons, bins)
    histograms: list[Any] = [None] * len(selective)
    for row in np.flatnonzero(selective).tolist():
        histograms[row] = inside[row % topics, row // topics].astype(np.int32)
    return pd.DataFrame(
        {
            "neuron": np.repeat(measures.numbers, topics),
            "topic": np.tile(np.arange(topics), neurons),
            **columns,
            "rival": pd.Series(rival, dtype="Int64").where(rival >= 0),
            "q": measures.q.ravel(),
            "confounded": verdicts.confounded.ravel(),
            "selective": selective,
            "counts": histograms,
            "verified": None,
            **dict.fromkeys(("effect", "effect_low", "effect_high", "effect_p"), np.nan),
        }
    )


def example_frame(measures: SiteMeasures, block: TokenBlock) -> "pd.DataFrame":
    """Return the example prompts of a site's neurons.

    Args:
        measures: measures of the site.
        block: tokens of all prompts.
    """
    import pandas as pd

    counts = measures.counts
    kinds = {
        "strongest": (counts.strongest, 1),
        "weakest": (counts.weakest, -1),
        "random": (_random(counts, measures.first), 1),
    }
    return pd.concat(
        [
            _examples(kind, extremes, sign, measures.numbers, block)
            for kind, (extremes, sign) in kinds.items()
        ],
        ignore_index=True,
    )


def _random(counts: SiteCounts, seed: int) -> Extremes:
    """Return a few prompts of the random sample per neuron, drawn separately for each."""
    by_index = np.argsort(counts.sample["index"])  # in any division into shards and batches
    sample = {name: array[by_index] for name, array in counts.sample.items()}
    rows, neurons = sample["values"].shape
    order = np.random.default_rng(seed).random((rows, neurons)).argsort(axis=0)[:_RANDOM]
    return Extremes(
        np.take_along_axis(sample["values"], order, axis=0),
        sample["index"].astype(np.int32)[order],
        np.take_along_axis(sample["peaks"], order, axis=0),
    )


def _examples(
    kind: str, extremes: Extremes, sign: int, numbers: NDArray[np.int64], block: TokenBlock
) -> "pd.DataFrame":
    """Return the rows of one kind of examples."""
    import pandas as pd

    ranks, neurons = extremes.values.shape
    ids = block.ids[block.starts[extremes.indices] + extremes.peaks].ravel()
    texts = {id: block.vocabulary.display(id) for id in np.unique(ids).tolist()}
    return pd.DataFrame(
        {
            "neuron": np.tile(numbers, ranks),
            "kind": kind,
            "rank": np.repeat(np.arange(ranks), neurons),
            "prompt": extremes.indices.ravel(),
            "value": sign * extremes.values.ravel(),
            "position": extremes.peaks.ravel(),
            "token": [texts[id] for id in ids.tolist()],
        }
    )


def prompt_frames(
    prompts: Iterable[Prompt],
    topics: TopicIndex,
    block: TokenBlock,
    tokens: NDArray[np.int64],
    rows: int = 10_000,
) -> "Iterator[pd.DataFrame]":
    """Yield the rows of the prompts, some at a time.

    Args:
        prompts: all prompts.
        topics: what is known of them.
        block: their tokens.
        tokens: (prompts,) number of tokens that count.
        rows: number of prompts per frame.
    """
    import itertools

    import pandas as pd

    remaining, first = iter(prompts), 0
    while chunk := list(itertools.islice(remaining, rows)):
        span = slice(first, first + len(chunk))
        yield pd.DataFrame(
            {
                "prompt": np.arange(span.start, span.stop),
                "id": [prompt.id for prompt in chunk],
                "text": [prompt.text for prompt in chunk],
                "source": [text or None for text in topics.sources[span].tolist()],
                "heldout": topics.heldout[span],
                "tokens": tokens[span],
                "ids": np.split(*_ids(block, span)),
                "topics": [np.flatnonzero(own) for own in topics.members[span]],
            }
        )
        first = span.stop


def _ids(block: TokenBlock, span: slice) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the ids of the tokens of consecutive prompts, and where all but the first begin."""
    part = block.slice(span)
    return part.ids, part.ends[:-1]


def token_frame(vocabulary: Vocabulary) -> "pd.DataFrame":
    """Return the rows of the tokens."""
    import pandas as pd

    ids = range(len(vocabulary.texts))
    texts = [vocabulary.spelled(id) for id in ids]
    return pd.DataFrame({"token": ids, "text": texts, "special": vocabulary.is_special})


def topic_frame(
    topics: TopicIndex, confounds: Confounds, measures: Sequence[SiteMeasures]
) -> "pd.DataFrame":
    """Return the rows of the topics."""
    import pandas as pd

    heldout = topics.members[topics.heldout]
    confounded = sum(part.verdicts.confounded.sum(axis=0) for part in measures)
    selective = sum(part.verdicts.selective.sum(axis=0) for part in measures)
    return pd.DataFrame(
        {
            "topic": np.arange(len(topics.names)),
            "name": topics.names,
            "prompts": topics.members.sum(axis=0),
            "prompts_heldout": heldout.sum(axis=0),
            "share": heldout.mean(axis=0),
            "separable": confounds.separable,
            "reason": confounds.reasons,
            "selective": selective - confounded,
            "confounded": confounded,
        }
    )


def covariate_frame(confounds: Confounds) -> "pd.DataFrame":
    """Return the rows of the covariates."""
    import pandas as pd

    return pd.concat(
        [
            pd.DataFrame({"topic": np.arange(len(areas)), "name": name, "auroc": areas})
            for name, areas in confounds.areas.items()
        ],
        ignore_index=True,
    )
