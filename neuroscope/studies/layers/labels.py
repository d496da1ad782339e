"""Choice of the label that probes read, and checks that they can."""

from collections import Counter

from neuroscope.errors import ExperimentError, Option
from neuroscope.prompts import Prompts
from neuroscope.stats.probes import LEAST_PER_CLASS

LEAST_PROBE_PROMPTS = 8
"""Smallest number of prompts to which probes may be limited: 4 for each of two values."""
_LEAST_PROMPTS = 4
"""Smallest number of prompts for which debiased CKA is defined."""
_NO_LABELS = Option("label_columns", [], "study the prompts without labels")


def studied_label(prompts: Prompts, name: str, *, probes: bool) -> str:
    """Return the label that is studied: the named one, or the only one; empty if there is none.

    Args:
        prompts: prompts under study.
        name: name of the label; empty for the only one.
        probes: whether probes are fitted for the label.

    Raises:
        ExperimentError: there are too few prompts, no prompt has the label, there are several
            labels and none is named, or a probe cannot be fitted to the values of the label.
    """
    if len(prompts) < _LEAST_PROMPTS:
        raise ExperimentError(
            f"too few prompts: {len(prompts)}; a study of layers needs at least {_LEAST_PROMPTS}"
        )
    label = _choose(prompts, name)
    if label and probes:
        _check_values(prompts, label)
    return label


def count_unlabelled(prompts: Prompts, label: str) -> int:
    """Return how many prompts lack a label."""
    return sum(label not in prompt.labels for prompt in prompts)


def count_repeated(prompts: Prompts) -> int:
    """Return how many prompts have the text of an earlier one."""
    return len(prompts) - len({hash(prompt.text) for prompt in prompts})


def _choose(prompts: Prompts, name: str) -> str:
    """Return the named label or the only one; raise ExperimentError if there is no such label."""
    names = sorted({key for prompt in prompts for key in prompt.labels})
    if name and name not in names:
        known = (
            f"; the labels are {', '.join(names)}" if names else ", and the prompts have no label"
        )
        raise ExperimentError(f"no prompt has the label '{name}'{known}")
    if not name and len(names) > 1:
        raise ExperimentError(
            f"the prompts have several labels: {', '.join(names)}",
            options=[Option("label", names[0], "choose the one to study"), _NO_LABELS],
        )
    return name or "".join(names)


def _check_values(prompts: Prompts, label: str) -> None:
    """Raise ExperimentError unless a probe can be fitted to the values of a label."""
    counts = Counter(prompt.labels[label] for prompt in prompts if label in prompt.labels)
    without_probes = Option("probes", False, "leave out the probes")
    if len(counts) < 2:
        raise ExperimentError(
            f"every prompt has the {label} {next(iter(counts))!r}, but a probe needs two values",
            options=[without_probes, _NO_LABELS],
        )
    rarest = min(counts, key=counts.__getitem__)
    if counts[rarest] < LEAST_PER_CLASS:
        raise ExperimentError(
            f"too few prompts have the {label} {rarest!r}: {counts[rarest]}, but a probe needs at"
            f" least {LEAST_PER_CLASS} per value",
            options=[without_probes, _NO_LABELS],
            remedy="add prompts with this value, or remove those that have it",
        )
