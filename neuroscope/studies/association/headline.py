"""Sentences on what a study of associations found."""

import math
from collections.abc import Sequence

from neuroscope.studies.association.result import SIGNIFICANT, AssociationRow, PairRow

_MOST_NAMED = 4  # roles in a sentence


def headline(rows: Sequence[AssociationRow], pairs: Sequence[PairRow]) -> str:
    """Return how much of the largest raw contrast of words is left after control, and for whom.

    Args:
        rows: contrasts of roles.
        pairs: contrasts of pairs of groups, over their roles.
    """
    leading = leading_rows(pairs)
    if not leading:
        return ""
    row = strongest(leading)
    sentences = [_sentence(row, leading, [other.role for other in _same(row, rows)])]
    if row.roles > 1:
        sentences.append(_roles_sentence(row, rows))
    return " ".join(sentences)


def leading_rows(pairs: Sequence[PairRow]) -> list[PairRow]:
    """Return the rows of the words, by layer, of the two groups with the largest raw contrast."""
    spans: dict[tuple[str, str], list[PairRow]] = {}
    for row in pairs:
        if row.view == "span":
            spans.setdefault((row.group_a, row.group_b), []).append(row)
    size = {pair: sum(abs(row.raw) for row in own) / len(own) for pair, own in spans.items()}
    return spans[max(size, key=size.__getitem__)] if size else []


def strongest(leading: Sequence[PairRow]) -> PairRow:
    """Return the row with the largest controlled contrast, among those that are more than chance.

    Rows without a share come last: what remains of a contrast that may be zero has no meaning.
    """

    def strength(row: PairRow) -> tuple[bool, bool, float]:
        return not math.isnan(row.share), row.significant, abs(row.controlled)

    return max(leading, key=strength)


def _same(row: PairRow, rows: Sequence[AssociationRow]) -> list[AssociationRow]:
    """Return the rows of the roles of a pair of groups, at its layer and in its view."""
    key = row.layer, row.view, row.group_a, row.group_b
    return [other for other in rows if (other.layer, other.view, *_groups(other)) == key]


def _groups(row: AssociationRow) -> tuple[str, str]:
    return row.group_a, row.group_b


def _sentence(row: PairRow, leading: Sequence[PairRow], roles: Sequence[str]) -> str:
    """Return how much of the contrast is left at the strongest layer, and at the first."""
    near, far = (f"'{name}'" for name in (_groups(row) if row.raw > 0 else _groups(row)[::-1]))
    subject = f"'{roles[0]}'" if len(roles) == 1 else f"the {len(roles)} roles"
    if math.isnan(row.share):
        return (
            f"At no layer can a difference between {near} and {far} in similarity to {subject} be"
            " told from chance, even before control."
        )
    difference = f"the difference between {near} and {far} in similarity to {subject}"
    if not any(other.significant for other in leading):
        return (
            f"Nothing that remains of {difference} after controlling for the words' surface can be"
            " told from chance, at any layer."
        )
    ends = [end for end in (leading[0], leading[-1]) if end.layer != row.layer]
    rest = "".join(f"; at layer {end.layer}, {_remains(end)}" for end in dict.fromkeys(ends))
    return (
        f"At layer {row.layer}, {_remains(row)} of {difference} remains after controlling for the"
        f" words' surface{rest}."
    )


def _remains(row: PairRow) -> str:
    """Return what remains of a contrast, with its interval."""
    if math.isnan(row.share):
        return "there is no such difference"
    if not row.significant:
        return "none"
    return f"{row.share:.0%} [{100 * row.share_low:.0f}, {100 * row.share_high:.0f}]"


def _roles_sentence(row: PairRow, rows: Sequence[AssociationRow]) -> str:
    """Return which roles are nearer to either group than their control roles are."""
    certain = sorted(
        (other for other in _same(row, rows) if other.significant),
        key=lambda other: -abs(other.controlled),
    )
    if not certain:
        return "No single role is nearer to one of them than its control words are."
    parts = []
    for group, sign in zip(_groups(row), (1, -1), strict=True):
        if names := [other.role for other in certain if sign * other.controlled > 0]:
            verb = "is" if len(names) == 1 else "are"
            parts.append(f"{_listed(names)} {verb} nearer to {group}")
    basis = "" if math.isnan(row.q) else f" (q < {SIGNIFICANT:g})"
    sentence = ", ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]} than their control words are{basis}."


def _listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence; of many, the first ones and the number of others."""
    shown = list(names[:_MOST_NAMED])
    if len(names) > _MOST_NAMED:
        shown.append(f"{len(names) - _MOST_NAMED} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
