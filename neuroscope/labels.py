"""Short display names of models and of pairs of prompts."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_LONGEST = 30  # characters per side of a pair's label


def model_label(name: str) -> str:
    """Return the display name of a model; for a folder, the last part of its path.

    >>> model_label("/models/news-v2"), model_label("someone/tiny"), model_label("models:/news/3")
    ('news-v2', 'someone/tiny', 'news v3')
    """
    if name.startswith("models:/"):
        return re.sub(r"/(\d+)$", r" v\1", name.removeprefix("models:/"))
    return _path(name).name if _is_path(name) else name


def distinct_labels(names: Sequence[str]) -> list[str]:
    """Return a display name per model; folders of the same name are told apart by their parents.

    >>> distinct_labels(["/runs/a/model", "/runs/b/model", "minilm"])
    ['a/model', 'b/model', 'minilm']
    """
    labels = [model_label(name) for name in names]
    shared = {label for label in labels if labels.count(label) > 1}
    return [
        _with_parents(name, names) if label in shared and _is_path(name) else label
        for name, label in zip(names, labels, strict=True)
    ]


def _with_parents(name: str, names: Sequence[str]) -> str:
    """Return the end of a path that no other path among the names has."""
    parts = _path(name).parts
    others = [_path(other).parts for other in names if _is_path(other) and other != name]
    length = 1
    while length < len(parts) and any(other[-length:] == parts[-length:] for other in others):
        length += 1
    return str(Path(*parts[-length:]))


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~"))


def _path(name: str) -> Path:
    return Path(name).expanduser().resolve()


def pair_labels(pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return a short, distinct name for each pair of prompts: the words in which they differ.

    >>> pair_labels([("The cat is on the mat", "The dog is on the mat")])
    {('The cat is on the mat', 'The dog is on the mat'): 'cat vs dog'}
    """
    words = [" vs ".join(_differing(a, b)) for a, b in pairs]
    repeated = {label for label, count in Counter(words).items() if count > 1}
    labels: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for (a, b), differing in zip(pairs, words, strict=True):
        shared = _shared(a, b) if differing in repeated else ""
        name = f"{differing} ({shared})" if shared else differing
        numbered = (f"{name} #{number}" for number in itertools.count(2))
        labels[a, b] = next(
            label for label in itertools.chain([name], numbered) if label not in taken
        )
        taken.add(labels[a, b])
    return labels


def _shared(a: str, b: str) -> str:
    """Return the words that two texts share at their beginning and end, shortened."""
    start, end = _common_ends(a.split(), b.split())
    words = a.split()
    return _shortened(
        " ".join([*words[:start], "…", *words[len(words) - end :]]).strip("… .") or ""
    )


def _common_ends(a: Sequence[str], b: Sequence[str]) -> tuple[int, int]:
    """Return how many words two texts share at their beginning, and then at their end."""
    shortest = min(len(a), len(b))
    start = next((i for i in range(shortest) if a[i] != b[i]), shortest)
    remaining = shortest - start
    return start, next((i for i in range(remaining) if a[-1 - i] != b[-1 - i]), remaining)


def _differing(a: str, b: str) -> tuple[str, str]:
    """Return the words in which two texts differ; "(nothing)" for a text that has none."""
    words_a, words_b = a.split(), b.split()
    start, end = _common_ends(words_a, words_b)
    spans = [" ".join(words[start : len(words) - end]) for words in (words_a, words_b)]
    shown = [(span.strip(".,;:!?") or span or "(nothing)") for span in spans]
    if shown[0] == shown[1]:
        shown = [span or "(nothing)" for span in spans]
    return _shortened(shown[0]), _shortened(shown[1])


def _shortened(span: str) -> str:
    return span if len(span) <= _LONGEST else span[: _LONGEST - 1] + "…"
