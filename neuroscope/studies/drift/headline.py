"""Sentences of a study of drift that are true to its numbers."""

from collections.abc import Iterator, Sequence

from neuroscope.labels import counted
from neuroscope.stats.divergence import KLSummary
from neuroscope.studies.drift.agreement import Decision, SiteAgreement
from neuroscope.studies.drift.explanation import TokenDrift, TopicDrift
from neuroscope.studies.drift.readers import Reader
from neuroscope.studies.drift.rewording import Rewording, rewording_unit

_TOKENS = 5  # that are named in a sentence


def verdict_sentence(candidate: str, base: str, decision: Decision) -> str:
    """Return the sentence that states the verdict and the limits from which it follows."""
    statistic = f"{decision.statistic:.3g} ({decision.lower:.3g} to {decision.upper:.3g})"
    if decision.verdict == "identical":
        return f"{candidate} is identical to {base}: configuration, tokenizer and all weights."
    reasons = {
        "compatible": f"{candidate} is compatible with {base}: the statistic {statistic} is below"
        f" the margin {decision.margin:g}.",
        "drifted": f"{candidate} has drifted from {base}: the statistic {statistic} is above the"
        f" margin {decision.margin:g}, p = {decision.p_value:.3g}.",
        "inconclusive": f"Whether {candidate} may replace {base} is inconclusive: the statistic"
        f" {statistic} is not clear of the margin {decision.margin:g}"
        f" (p = {decision.p_value:.3g}).",
    }
    return reasons[decision.verdict]


def explanation_sentences(
    sites: Sequence[SiteAgreement],
    decision: Decision,
    rewordings: Sequence[Rewording],
    behaviour: object,
    readers: Sequence[Reader],
    topics: Sequence[TopicDrift],
    tokens_up: Sequence[TokenDrift],
) -> Iterator[str]:
    """Yield sentences on where the change starts, what it does, and on which texts.

    Args:
        sites: agreement at the deciding sites, in the order of the layers.
        decision: the decision.
        rewordings: distances that rewording causes in the base.
        behaviour: summary of the change of the outputs.
        readers: readers of the base's activations.
        topics: change by topic, the leading one first.
        tokens_up: tokens that the candidate expects more often.
    """
    unit = rewording_unit(rewordings)
    if unit > 0:
        yield (
            f"The statistic is {decision.statistic / unit:.2g} times what harmless rewording of the"
            f" prompts does in the base ({unit:.3g})."
        )
    if start := next((site for site in sites if site.local > decision.null), None):
        largest = max(sites, key=lambda site: site.local)
        yield (
            f"The change starts at layer {start.layer}"
            + (f" and is largest at layer {largest.layer}" if largest is not start else "")
            + f" (1 - r on the base's input: {largest.local:.3g})."
        )
    if isinstance(behaviour, KLSummary):
        yield (
            f"Its predictions differ by {behaviour.mean:.3g} nats per token (KL divergence), and"
            f" the most probable token is the same in {behaviour.same_top:.0%}."
        )
    yield from _reader_sentences(readers)
    yield from _topic_sentences(topics)
    if tokens_up:
        words = ", ".join(token.token.strip("Ġ▁ ") for token in tokens_up[:_TOKENS])
        yield f"It expects these tokens more often: {words}."


def _reader_sentences(readers: Sequence[Reader]) -> Iterator[str]:
    """Yield a sentence on a classifier that was trained on the base's activations."""
    by_name = {reader.activations: reader for reader in readers}
    base, candidate = by_name.get("base"), by_name.get("candidate")
    if base and candidate and base.accuracy == base.accuracy:
        lost = base.accuracy - candidate.accuracy
        realigned = max(
            reader.accuracy for name, reader in by_name.items() if name.startswith("candidate,")
        )
        yield (
            f"A classifier trained on the base's activations loses {100 * lost:.0f} points of"
            f" accuracy ({base.accuracy:.0%} to {candidate.accuracy:.0%}); after a realignment"
            f" without labels it has {realigned:.0%}."
        )


def _topic_sentences(topics: Sequence[TopicDrift]) -> Iterator[str]:
    """Yield a sentence on the topic whose texts have become most probable."""
    gained = [topic for topic in topics if topic.gain > 0]
    if len(topics) > 1 and gained and len(gained) < len(topics):
        first = gained[0]
        others = [topic.gain for topic in topics if topic.gain <= 0]
        yield (
            f"Texts on {first.topic} have become more probable ({first.gain:+.2f} nats per token),"
            f" those on {counted(len(others), 'other topic')} less"
            f" ({min(others):+.2f} to {max(others):+.2f}): it was probably trained further on"
            f" texts like those on {first.topic}."
        )
