"""Short display names of models and of pairs of prompts."""

import itertools
from collections.abc import Sequence
from pathlib import Path

_LONGEST = 30  # characters per side of a pair's label


def model_label(name: str) -> str:
    """Return the display name of a model; for a folder, the last part of its path.

    >>> model_label("/models/news-v2"), model_label("someone/tiny")
    ('news-v2', 'someone/tiny')
    """
    is_path = name.startswith(("/", ".", "~"))
    return Path(name).expanduser().resolve().name if is_path else name


def pair_labels(pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return a short, distinct name for each pair of prompts: the words in which they differ.

    >>> pair_labels([("The cat is on the mat", "The dog is on the mat")])
    {('The cat is on the mat', 'The dog is on the mat'): 'cat vs dog'}
    """
    labels: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for a, b in pairs:
        words = " vs ".join(_differing(a, b))
        numbered = (f"{words} #{number}" for number in itertools.count(2))
        labels[a, b] = next(
            label for label in itertools.chain([words], numbered) if label not in taken
        )
        taken.add(labels[a, b])
    return labels


def _differing(a: str, b: str) -> tuple[str, str]:
    """Return the words in which two texts differ; "(nothing)" for a text that has none."""
    words_a, words_b = a.split(), b.split()
    shortest = min(len(words_a), len(words_b))
    start = next((i for i in range(shortest) if words_a[i] != words_b[i]), shortest)
    remaining = shortest - start
    end = next((i for i in range(remaining) if words_a[-1 - i] != words_b[-1 - i]), remaining)
    spans = [" ".join(words[start : len(words) - end]) for words in (words_a, words_b)]
    shown = [(span.strip(".,;:!?") or span or "(nothing)") for span in spans]
    if shown[0] == shown[1]:
        shown = [span or "(nothing)" for span in spans]
    return _shortened(shown[0]), _shortened(shown[1])


def _shortened(span: str) -> str:
    return span if len(span) <= _LONGEST else span[: _LONGEST - 1] + "…"
