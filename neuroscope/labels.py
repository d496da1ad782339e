"""Short display names of models, pairs of prompts and objects."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

_LONGEST = 30  # characters per side of a pair's label
_LONGEST_ID = 12  # characters of a prompt's id in a label
_MOST_COMPARED = 100  # words of the prompts in whose middle shared words are looked for
_LONGEST_REPR = 100  # characters


def model_label(name: str) -> str:
    """Return the display name of a model; for a folder, the last part of its path.

    >>> model_label("/models/news-v2"), model_label("someone/tiny"), model_label("models:/news/3")
    ('news-v2', 'someone/tiny', 'news v3')
    """
    if name.startswith("models:/"):
        return re.sub(r"/(\d+)$", r" v\1", name.removeprefix("models:/"))
    return _path(name).name if _is_path(name) else name


def distinct_labels(names: Sequence[str]) -> list[str]:
    """Return a display name per model; folders with the same name include their parents.

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


def pair_labels(
    pairs: Sequence[tuple[str, str]],
    ids: Sequence[tuple[str, str]] = (),
    *,
    with_ids: bool = False,
) -> dict[tuple[str, str], str]:
    """Return a short, distinct name for each pair of prompts: the words in which they differ.

    >>> pair_labels([("The cat is on the mat", "The dog is on the mat")])
    {('The cat is on the mat', 'The dog is on the mat'): 'cat vs dog'}

    Args:
        pairs: texts of the prompts of each pair.
        ids: ids of the prompts of each pair, which tell names apart that would be the same.
        with_ids: whether every name ends with the ids.
    """
    words = [" vs ".join(_differing(a, b, in_context=with_ids)) for a, b in pairs]
    repeated = {label for label, count in Counter(words).items() if count > 1}
    labels: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for index, ((a, b), differing) in enumerate(zip(pairs, words, strict=True)):
        shared = _shared(a, b) if differing in repeated else ""
        name = f"{differing} ({shared})" if shared else differing
        with_id = [f"{differing} (prompts {', '.join(map(_short_id, ids[index]))})"] if ids else []
        names = [*with_id, name] if with_ids else [name, *with_id]
        numbered = (f"{name} #{number}" for number in itertools.count(2))
        labels[a, b] = next(
            label for label in itertools.chain(names, numbered) if label not in taken
        )
        taken.add(labels[a, b])
    return labels


def _short_id(id: str) -> str:
    return one_line(id, _LONGEST_ID)


def _shared(a: str, b: str) -> str:
    """Return the words that two texts share at their beginning and end, shortened."""
    words = a.split()
    start, end = _common_ends(words, b.split())
    shared = " ".join([*words[:start], "…", *words[len(words) - end :]])
    return shortened(shared.strip("… ."), _LONGEST)


def _common_ends(a: Sequence[str], b: Sequence[str]) -> tuple[int, int]:
    """Return how many words two texts share at their beginning, and then at their end."""
    shortest = min(len(a), len(b))
    start = next((i for i in range(shortest) if a[i] != b[i]), shortest)
    remaining = shortest - start
    return start, next((i for i in range(remaining) if a[-1 - i] != b[-1 - i]), remaining)


def _differing(a: str, b: str, *, in_context: bool) -> tuple[str, str]:
    """Return the words in which two texts differ; "(nothing)" for a text that has none.

    Numbers and signs in context follow the word before them.
    """
    words_a, words_b = a.split(), b.split()
    start, end = _common_ends(words_a, words_b)
    spans = [" ".join(words[start : len(words) - end]) for words in (words_a, words_b)]
    if in_context and start and not re.search(r"[^\W\d_]", "".join(spans)):
        spans = [f"{words_a[start - 1]} {span}".strip() for span in spans]
    if max(map(len, spans)) > _LONGEST:
        spans = _without_shared(*spans)
    shown = [(span.strip(".,;:!?") or span or "(nothing)") for span in spans]
    if shown[0] == shown[1]:
        shown = [span or "(nothing)" for span in spans]
    return shortened(shown[0], _LONGEST), shortened(shown[1], _LONGEST)


def _without_shared(a: str, b: str) -> list[str]:
    """Return two texts in which "…" stands for the words that they share."""
    both = a.split(), b.split()
    if max(map(len, both)) > _MOST_COMPARED:
        return [a, b]
    shared = SequenceMatcher(None, *both, autojunk=False).get_matching_blocks()
    spans = []
    for words, starts in zip(both, zip(*((at.a, at.b) for at in shared), strict=True), strict=True):
        ends = [0, *(start + at.size for start, at in zip(starts, shared, strict=True))]
        gaps = zip(ends, starts, strict=False)  # words between two shared blocks
        spans.append(" … ".join(filter(None, (" ".join(words[i:j]) for i, j in gaps))))
    return spans


def short_model(name: str) -> str:
    """Return the display name of a model, shortened."""
    return shortened(model_label(name), _LONGEST)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "pair"), counted(1200, "pair")
    ('1 pair', '1,200 pairs')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def short_repr(value: object, description: str) -> str:
    """Return the class of a value and its description, as one printable line of 100 characters.

    >>> short_repr(3, "a small\\nnumber")
    'int(a small number)'
    """
    name = type(value).__name__
    return f"{name}({one_line(description, _LONGEST_REPR - len(name) - 2)})"


def one_line(text: str, most: int) -> str:
    """Return a text as one printable line, shortened to `most` characters."""
    start = " ".join(text[: 10 * most].split())
    return shortened("".join(map(_printable, start)), most)


def shortened(text: str, most: int) -> str:
    """Return a text without its end if it has more than `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _printable(letter: str) -> str:
    return letter if letter.isprintable() else ascii(letter)[1:-1]
