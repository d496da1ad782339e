"""Sentences of a study of drift that are true to its numbers."""

import math
from collections.abc import Iterator, Sequence

from neuroscope.labels import counted
from neuroscope.stats.divergence import KLSummary
from neuroscope.studies.drift.agreement import Decision, SiteAgreement
from neuroscope.studies.drift.explanation import TokenDrift, TopicDrift
from neuroscope.studies.drift.readers import Reader
from neuroscope.studies.drift.result import (
    ASSOCIATION_CHANGED,
    AssociationDrift,
    Explanation,
    FinalChange,
    PartRow,
    Patching,
)
from neuroscope.studies.drift.rewording import Rewording, rewording_unit

_TOKENS = 5  # that are named in a sentence
_LEAST_TESTED = 20  # prompts on which a classifier is tested, from which it is worth a sentence
_TOPICS = 2  # that are named in a sentence
_NOTABLE = 0.05  # share of the change of the outputs that is worth a sentence
_MORE_OFTEN = 1.5  # ratio of probabilities from which a word is named
_ABOUT = 1.15  # ratio up to which two numbers are about as large


def verdict_sentence(candidate: str, base: str, decision: Decision) -> str:
    """Return the sentence that states the verdict and the limits from which it follows."""
    statistic = f"the statistic {decision.statistic:.3g}"
    limits = f"({decision.lower:.3g} to {decision.upper:.3g})"
    margin, p = f"the margin {decision.margin:g}", f"p = {decision.p_value:.3g}"
    if decision.verdict == "identical":
        return f"{candidate} is identical to {base}: configuration, tokenizer and all weights."
    if decision.verdict == "compatible":
        return f"{candidate} is compatible with {base}: {statistic} {limits} is below {margin}."
    if decision.verdict == "drifted":
        return f"{candidate} has drifted from {base}: {statistic} {limits} is above {margin}, {p}."
    start = f"The check of {candidate} against {base} is inconclusive: {statistic}"
    if decision.lower > decision.margin:
        return (
            f"{start} {limits} is above {margin}, but not larger than that of enough benign"
            f" replicates of the base ({p}, alpha {decision.alpha:.3g})."
        )
    return f"{start} has limits on both sides of {margin} {limits}."


def explanation_sentences(
    sites: Sequence[SiteAgreement],
    decision: Decision,
    rewordings: Sequence[Rewording],
    behaviour: KLSummary | FinalChange | None,
    readers: Sequence[Reader],
    explanation: Explanation,
    *,
    parts: Sequence[PartRow] = (),
    associations: Sequence[AssociationDrift] = (),
    bounded: bool = False,
) -> Iterator[str]:
    """Yield sentences on where the change starts, what it does, and on which texts.

    Args:
        sites: agreement at all sites.
        decision: the decision.
        rewordings: distances that rewording causes in the base.
        behaviour: summary of the change of the outputs.
        readers: readers of the base's activations.
        explanation: what has changed, where, and on which texts.
        parts: differences of the weights.
        associations: associations in both models, those that changed most first.
        bounded: whether KL divergences are lower bounds.
    """
    yield from _size_sentences(decision, rewordings)
    yield from _embedding_sentences(parts)
    yield from _layer_sentences(sites, decision.null)
    yield from _largest_sentences(sites)
    if explanation.patching:
        yield from _patching_sentences(explanation.patching)
    if isinstance(behaviour, KLSummary):
        divergence = f"{'at least ' * bounded}{behaviour.mean:.3g} nats per token"
        yield (
            f"Its predictions differ by {divergence} (KL divergence), and the most probable token"
            f" is the same in {behaviour.same_top:.0%}."
        )
    elif behaviour:
        yield f"Its final representations differ by {behaviour.mean:.2g} on average (1 - cosine)."
    yield from _reader_sentences(readers)
    if explanation.topics:
        if not bounded:  # ratios of lower bounds say nothing
            yield from _divergence_sentences(explanation.topics.rows)
        yield from _gain_sentences(explanation.topics.rows)
    yield from _token_sentences(explanation.tokens_up)
    yield from _association_sentences(associations)


def times(ratio: float) -> str:
    """Return a ratio in words.

    >>> times(1.05), times(6.2), times(140.3)
    ('about as large as', '6.2 times', '140 times')
    """
    if 1 / _ABOUT < ratio < _ABOUT:
        return "about as large as"
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.2g} times"


def _size_sentences(decision: Decision, rewordings: Sequence[Rewording]) -> Iterator[str]:
    """Yield a sentence that states the statistic in units of harmless rewording."""
    if (unit := rewording_unit(rewordings)) > 0:
        effects = [f"{each.distance:.3g} ({each.change})" for each in rewordings if each.changed]
        mean = "the mean of these" if len(effects) > 1 else "that"
        yield (
            f"Harmless rewording of the prompts changes the base by {', '.join(effects)}; the"
            f" statistic is {times(decision.statistic / unit)} {mean}."
        )


def _embedding_sentences(parts: Sequence[PartRow]) -> Iterator[str]:
    """Yield a sentence on embeddings that have changed, which every layer reads."""
    for part in parts:
        if part.part == "embeddings" and part.relative_norm > 0:
            yield f"The embeddings have changed (relative norm {part.relative_norm:.2g})."


def _largest_sentences(sites: Sequence[SiteAgreement]) -> Iterator[str]:
    """Yield a sentence on the layer that decides; replicates are read at deciding sites only."""
    deciding = [site for site in sites if site.null_high == site.null_high]
    known = [site for site in deciding if site.one_minus_r == site.one_minus_r]
    if len(known) > 1:
        largest = max(known, key=lambda site: site.one_minus_r)
        yield (
            f"On each model's own input, the change is largest at layer {largest.layer}, whose"
            " 1 - r is the statistic."
        )


def _layer_sentences(sites: Sequence[SiteAgreement], null: float) -> Iterator[str]:
    """Yield a sentence on the layers that have themselves changed.

    A layer has if the local distance of one of its sites is above that of all benign replicates.
    """
    layers = list(_largest_by_layer(sites))
    changed = [site for site in layers if site.local > null]
    if changed:
        first, largest = changed[0], max(changed, key=lambda site: site.local)
        size = f"(1 - r = {largest.local:.3g} at {largest.component}, on the base's input)"
        if len(layers) == 1:
            yield f"Layer {first.layer}, the only one that was read, has itself changed {size}."
            return
        start = f"The change starts at layer {first.layer}"
        if first is layers[0] and first.layer > 0:
            start = f"Layer {first.layer}, the first one that was read, has itself changed"
        if len(changed) == 1:
            yield f"{start} {size}; in no other layer is it larger than in benign replicates."
            return
        place = (
            "which changed most" if largest is first else f"and layer {largest.layer} changed most"
        )
        later = sum(site.layer > first.layer for site in layers)
        number = len(changed) - 1
        others = f"all {later} later layers have themselves changed"
        if later == 1:
            others = "the later layer has itself changed"
        elif number < later:
            others = f"{number} of the {later} later layers have themselves changed"
        yield f"{start}, {place} {size}; {others}, too."
    elif layers and any(site.one_minus_r > null for site in sites):
        read = "None of the layers that were read has itself changed"
        yield f"{read} more than in benign replicates: they read other inputs than in the base."


def _largest_by_layer(sites: Sequence[SiteAgreement]) -> Iterator[SiteAgreement]:
    """Yield the site of each layer whose local distance is largest, in the order of the layers."""
    for layer in sorted({site.layer for site in sites}):
        known = [site for site in sites if site.layer == layer and site.local == site.local]
        if known:
            yield max(known, key=lambda site: site.local)


def _patching_sentences(patching: Patching) -> Iterator[str]:
    """Yield a sentence on the change that comes from the embeddings, or from after the layers."""
    first, last = patching.returned[0], patching.returned[-1]
    effects = []
    if first > _NOTABLE:
        effects.append(f"the base's embeddings undo {first:.0%} of the change of the outputs")
    if last < 1 - _NOTABLE:
        change = "it" if effects else "the change of the outputs"
        effects.append(
            f"the base's residual stream after the last layer undoes {max(last, 0):.0%} of"
            f" {change}: the rest is due to the final norm and the head"
        )
    if effects:
        yield f"Patched in, {', and '.join(effects)}."


def _reader_sentences(readers: Sequence[Reader]) -> Iterator[str]:
    """Yield a sentence on a classifier of the base's activations that has become worse."""
    by_name = {reader.activations: reader for reader in readers}
    base, candidate = by_name.get("base"), by_name.get("candidate")
    if not (base and candidate and base.accuracy == base.accuracy):
        return
    lost = round(100 * base.accuracy) - round(100 * candidate.accuracy)
    change = f"({base.accuracy:.0%} to {candidate.accuracy:.0%})"
    error = math.hypot(base.accuracy_error, candidate.accuracy_error)
    if lost <= 0 or lost < 200 * error or base.tested < _LEAST_TESTED:  # two standard errors
        return
    realigned = max(
        reader.accuracy for name, reader in by_name.items() if name.startswith("candidate,")
    )
    yield (
        f"A classifier trained on the base's activations loses {counted(lost, 'point')} of"
        f" accuracy {change}; after a realignment without labels it has {realigned:.0%}."
    )


def _divergence_sentences(topics: Sequence[TopicDrift]) -> Iterator[str]:
    """Yield a sentence on the topic on which the outputs changed most, if one stands out.

    It does if its mean is larger than that of the others by two standard errors, and by a fifth.
    Topics of a single prompt, whose error is not known, are left out.
    """
    topics = [topic for topic in topics if topic.divergence_error == topic.divergence_error]
    if len(topics) < 2:
        return
    first = max(topics, key=lambda topic: topic.divergence)
    others = [topic for topic in topics if topic is not first]
    mean = sum(topic.divergence for topic in others) / len(others)
    error = math.hypot(*(topic.divergence_error for topic in others)) / len(others)
    clear = first.divergence - mean > 2 * math.hypot(first.divergence_error, error)
    if clear and first.divergence > 1.2 * mean > 0:
        unit = " nats per token" if first.gain == first.gain else ""
        yield (
            f"The outputs changed most on {first.topic} ({first.divergence:.3g}{unit}):"
            f" {times(first.divergence / mean)} the mean of the other topics ({mean:.3g})."
        )


def _gain_sentences(topics: Sequence[TopicDrift]) -> Iterator[str]:
    """Yield a sentence on the topics whose texts have become more, or less, probable.

    Only changes of two standard errors count.
    """
    more = [topic for topic in topics if topic.gain > 2 * topic.gain_error]
    less = [topic for topic in topics if -topic.gain > 2 * topic.gain_error]
    if more and less:
        named = " and ".join(topic.topic for topic in more[:_TOPICS])
        rest = len(more) - _TOPICS
        texts = f"{named}, and {counted(rest, 'further topic')}," if rest > 0 else named
        sentence = (
            f"Texts on {texts} have become more probable ({_range(more)} nats per token), those on"
            f" {counted(len(less), 'other topic')} less ({_range(less)})"
        )
        likely = f": it was probably trained further on texts like those on {named}"
        yield f"{sentence}{likely if len(more) <= min(_TOPICS, len(less)) else ''}."
    elif len(more) == len(topics) or len(less) == len(topics):
        word = "more" if more else "less"
        yield f"Texts on all topics have become {word} probable ({_range(topics)} nats per token)."


def _association_sentences(rows: Sequence[AssociationDrift]) -> Iterator[str]:
    """Yield a sentence on how many associations changed, and on the largest change."""
    changed = [row for row in rows if row.changed]
    if changed:
        most = changed[0]
        yield (
            f"{len(changed)} of {len(rows)} associations changed (q < {ASSOCIATION_CHANGED:g}),"
            f" most of all that of '{most.role}' with {most.group_a} rather than {most.group_b} at"
            f" layer {most.layer}: {most.candidate:.3f} instead of {most.base:.3f}."
        )
    elif rows and math.isnan(rows[0].q):
        yield f"With {rows[0].n} templates, changes of associations cannot be told from chance."
    elif rows:
        yield f"In none of {len(rows)} associations can a change be told from chance."


def _token_sentences(tokens: Sequence[TokenDrift]) -> Iterator[str]:
    """Yield a sentence with the words that the candidate expects much more often."""
    often = [token for token in tokens if token.is_word and token.ratio > math.log(_MORE_OFTEN)]
    words = list(dict.fromkeys(token.text for token in often))
    if words:
        named = ", ".join(words[:_TOKENS])
        yield f"It expects these words more than {_MORE_OFTEN} times as often: {named}."


def _range(topics: Sequence[TopicDrift]) -> str:
    """Return the gain of one topic, or the least and the largest gain of several."""
    gains = sorted(topic.gain for topic in topics)
    ends = gains if len(gains) == 1 else [gains[0], gains[-1]]
    return " to ".join(f"{gain:+.2f}" for gain in ends)
