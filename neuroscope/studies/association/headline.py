"""Sentences on what a study of associations found."""

import math
from collections.abc import Sequence

from neuroscope.studies.association.result import SIGNIFICANT, AssociationRow, PairRow

_MOST_NAMED = 4  # roles in a sentence


def headline(rows: Sequence[AssociationRow], pairs: Sequence[PairRow]) -> str:
    """Return how much of the largest raw contrast of words is left after control, and for whom.

    Args:
        rows: contrasts of roles.
        pairs: two groups over all roles.
    """
    leading = leading_rows(pairs)
    if not leading:
        return ""
    row = strongest(leading, rows)
    sentences = [_share_sentence(row, leading, rows)]
    if is_certain(row, rows):
        sentences += filter(None, [_words_sentence(leading), _roles_sentence(row, rows)])
    return " ".join(sentences)


def leading_rows(pairs: Sequence[PairRow]) -> list[PairRow]:
    """Return the rows of the words, by layer, of the two groups with the largest raw contrast."""
    spans: dict[tuple[str, str], list[PairRow]] = {}
    for row in pairs:
        if row.view == "span":
            spans.setdefault((row.group_a, row.group_b), []).append(row)
    size = {pair: sum(row.raw for row in own) / len(own) for pair, own in spans.items()}
    return spans[max(size, key=size.__getitem__)] if size else []


def strongest(leading: Sequence[PairRow], rows: Sequence[AssociationRow]) -> PairRow:
    """Return the layer with the largest controlled contrast, among those that are certain.

    Layers without a share come last: what remains of a contrast that may be zero has no meaning.
    """

    def strength(row: PairRow) -> tuple[bool, bool, float]:
        return not math.isnan(row.share), is_certain(row, rows), row.controlled

    return max(leading, key=strength)


def is_certain(row: PairRow, rows: Sequence[AssociationRow]) -> bool:
    """Return whether the contrast of any role with two groups is certain at a layer."""
    return any(other.certain for other in roles_at(row, rows))


def roles_at(row: PairRow, rows: Sequence[AssociationRow]) -> list[AssociationRow]:
    """Return the contrasts of each role with two groups, at their layer and in their view."""
    key = row.layer, row.view, row.group_a, row.group_b
    return [
        other for other in rows if (other.layer, other.view, other.group_a, other.group_b) == key
    ]


def _share_sentence(
    row: PairRow, leading: Sequence[PairRow], rows: Sequence[AssociationRow]
) -> str:
    """Return how much of the contrast is left at its strongest layer, the first and the last."""
    roles = roles_at(row, rows)
    groups = [f"'{row.group_a}'", f"'{row.group_b}'"]
    subject = f"the {len(roles)} roles"
    if len(roles) == 1:
        subject = f"'{roles[0].role}'"
        groups.sort(key=lambda name: (name == f"'{row.group_a}'") != (roles[0].raw > 0))
    difference = f"difference between {' and '.join(groups)} in similarity to {subject}"
    if math.isnan(row.share):
        return f"No {difference} can be told from chance at any layer, even before control."
    if all(math.isnan(other.q) for other in rows):
        return (
            f"There are too few templates ({row.n}) to tell from chance what remains of the"
            f" {difference} after controlling for the words' surface."
        )
    if not any(is_certain(other, rows) for other in leading):
        return (
            "After controlling for the words' surface, nothing that can be told from chance is left"
            f" of the {difference}, at any layer."
        )
    ends = dict.fromkeys(end for end in (leading[0], leading[-1]) if end.layer != row.layer)
    others = "".join(f"; at layer {end.layer}, {_remains(end, rows)}" for end in ends)
    control = "after controlling for the words' surface"
    if row.share_high < 0:
        return f"At layer {row.layer}, the {difference} is reversed {control}{others}."
    remains = f"{_remains(row, rows)} of the {difference} remains {control}"
    return f"At layer {row.layer}, {remains}{others}."


def _remains(row: PairRow, rows: Sequence[AssociationRow]) -> str:
    """Return what remains of a contrast, with its interval."""
    if math.isnan(row.share):
        return "there is no such difference"
    if not is_certain(row, rows) or row.share_low <= 0 <= row.share_high:
        return "none"
    if row.share < 0:
        return "it is reversed"
    share = f"{row.share:.0%} [{100 * row.share_low:.0f}, {100 * row.share_high:.0f}]"
    return f"all ({share})" if row.share_low >= 1 else share


def _words_sentence(leading: Sequence[PairRow]) -> str:
    """Return at which layers no group of control words has as large a contrast."""
    if all(math.isnan(row.p_words) for row in leading):
        return ""
    larger = [row.layer for row in leading if row.q_words < SIGNIFICANT]
    if not larger:
        over = "Over all roles, random" if leading[0].roles > 1 else "Random"
        where = "" if len(leading) == 1 else " at every layer"
        return (
            f"{over} groups of words show as large a contrast{where}: it may be an effect of the"
            " words that were chosen."
        )
    where = "every layer"
    if len(larger) < len(leading) or len(leading) == 1:
        where = f"layer{'s' if len(larger) > 1 else ''} {_listed(list(map(str, larger)))}"
        where += " only" if len(larger) < len(leading) else ""
    return (
        f"The contrast is larger than those of random groups of words at {where} (q <"
        f" {SIGNIFICANT:g})."
    )


def _roles_sentence(row: PairRow, rows: Sequence[AssociationRow]) -> str:
    """Return which of several roles are nearer to one group than their control roles are."""
    if row.roles == 1:
        return ""
    certain = sorted(
        (other for other in roles_at(row, rows) if other.significant),
        key=lambda other: -abs(other.controlled),
    )
    if not certain:
        return "No single role has a contrast that is larger than those of random groups of words."
    parts: list[str] = []
    for group, sign in ((row.group_a, 1), (row.group_b, -1)):
        if names := [other.role for other in certain if sign * other.controlled > 0]:
            verb = "is" if len(names) == 1 else "are"
            nearer = f"{verb} nearer to" if not parts else "to"
            parts.append(f"{_listed(names, _MOST_NAMED)} {nearer} {group}")
    start = "Compared with their control roles"
    if not math.isnan(row.q_words):
        start = "Beyond what random groups of words show"
    return f"{start}, {', and '.join(parts)} (q < {SIGNIFICANT:g})."


def _listed(names: Sequence[str], most: int = 100) -> str:
    """Return names as a list in a sentence; of many, the first ones and the number of others."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
