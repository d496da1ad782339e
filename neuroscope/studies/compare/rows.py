"""Rows of a comparison: the similarity of the prompts of each pair at one site."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neuroscope.activations import Activations, Floats
from neuroscope.align import VIEWS, align, view_positions
from neuroscope.extraction.baseline import read_baseline
from neuroscope.options import TokenRule
from neuroscope.sites import Site
from neuroscope.stats.similarity import jaccard, similarity
from neuroscope.studies.compare.result import ComparisonRow, PairTokens

Pair = tuple[str, str]

_BASELINE_RULES: dict[str, TokenRule] = {"aligned": "all", "span": "content", "context": "content"}
"""View -> token rule of the baseline that standardises it."""


def compare_site(
    activations: Activations[list[Floats]],
    site: Site,
    baseline: Path,
    pairs: Sequence[Pair],
    *,
    views: Sequence[str] = VIEWS,
) -> Iterator[ComparisonRow]:
    """Yield one row per pair and view at one site.

    Args:
        activations: activations of every token, special tokens included.
        site: site that is recorded in `activations`.
        baseline: file of the model's baseline statistics.
        pairs: pairs of prompts, as texts.
        views: views to compare.
    """
    baselines = {view: read_baseline(baseline, _BASELINE_RULES[view], site.layer) for view in views}
    index = {text: position for position, text in enumerate(activations.prompts.texts)}
    arrays = activations[site]
    for a, b in pairs:
        tokens_a, tokens_b = activations.tokens[index[a]], activations.tokens[index[b]]
        positions = view_positions(
            align(tokens_a, tokens_b),
            arrays[index[a]],
            arrays[index[b]],
            tokens_a.words,
            tokens_b.words,
        )
        for view in views:
            measured = similarity(*positions[view], baselines[view])
            yield ComparisonRow(
                site.layer, a, b, view, **asdict(measured), positions=len(positions[view][0])
            )


def pair_tokens(activations: Activations[Any], pairs: Sequence[Pair]) -> tuple[PairTokens, ...]:
    """Return how many tokens the prompts of each pair have and share, without special tokens."""
    content = {
        text: [id for id, special in zip(tokens.ids, tokens.special, strict=True) if not special]
        for text, tokens in zip(activations.prompts.texts, activations.tokens, strict=True)
    }
    ids = {prompt.text: prompt.id for prompt in activations.prompts}
    return tuple(
        PairTokens(
            a,
            b,
            len(content[a]),
            len(content[b]),
            jaccard(set(content[a]), set(content[b])),
            ids[a],
            ids[b],
        )
        for a, b in pairs
    )


def token_notes(activations: Activations[Any], pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Return sentences on unknown words, and on prompts that are the same to the model."""
    tokens = dict(zip(activations.prompts.texts, activations.tokens, strict=True))
    notes = [
        f"the tokenizer does not know {sum(read.unknown)} of {sum(read.content)} words or pieces of"
        f" '{text}'; the model cannot tell them apart"
        for text, read in tokens.items()
        if any(read.unknown)
    ]
    notes += [
        f"'{a}' and '{b}' are the same tokens to this model; there is nothing to compare"
        for a, b in pairs
        if tokens[a].ids == tokens[b].ids
    ]
    return tuple(notes)
