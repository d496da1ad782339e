"""Text report of a comparison: the prompts, their tokens, then the values at each layer."""

import datetime
from collections.abc import Mapping

from neuroscope.labels import model_label
from neuroscope.reporting.tables import number
from neuroscope.studies.compare.published import PublishedCheck, PublishedChecks
from neuroscope.studies.compare.result import Comparison, ComparisonRow
from neuroscope.tokens import Tokens


def to_text(
    comparison: Comparison, note: str, tokens: Mapping[str, Tokens], published: PublishedChecks
) -> str:
    """Return the comparison as text.

    Args:
        comparison: comparison in one model.
        note: note of the experiment.
        tokens: prompt -> its tokens.
        published: published figures beside the measured ones.
    """
    date = datetime.datetime.now().astimezone()
    lines = [
        f"Activation comparison for {model_label(comparison.model)}, {comparison.component}",
        f"Date: {date:%Y-%m-%d %H:%M:%S}",
        *([f"Note: {note.strip()}"] if note.strip() else []),
        "",
    ]
    for prompt, read in tokens.items():
        lines += [f"Prompt: {prompt}", f"Tokens: {list(read.texts)}", ""]
    for warning in comparison.notes:
        lines += [f"Note: {warning}", ""]
    for layer in comparison.layers:
        lines += [f"Layer {comparison.component}.{layer}", "Activation Comparisons:"]
        for views in comparison.by_pair(layer):
            lines += _pair_lines(views)
    lines += [published.note] if published.note else []
    for check in published.checks:
        lines += _check_lines(check)
    return "\n".join(lines) + "\n"


def _pair_lines(views: Mapping[str, ComparisonRow]) -> list[str]:
    row = views["aligned"]
    return [
        f"'{row.a}' vs. '{row.b}'",
        f"Cosine Similarity: {number(row.cosine)}",
        f"Mean Squared Error: {number(row.mse)}",
        f"Standardised Cosine: {number(row.cosine_z)}"
        f" (replaced words {number(views['span'].cosine_z)},"
        f" shared words {number(views['context'].cosine_z)})",
        "",
    ]


def _check_lines(check: PublishedCheck) -> list[str]:
    return [
        f"'{check.a}' vs. '{check.b}'",
        f"Cosine Similarity: {number(check.cosine)} (published {number(check.published_cosine)})",
        f"Mean Squared Error: {number(check.mse)} (published {number(check.published_mse)})",
        "",
    ]
