"""Topics, sources and surface of prompts, and their division into two halves."""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ExperimentError, Option
from neuroscope.files import atomic_write
from neuroscope.labels import counted
from neuroscope.prompts import Prompt, Prompts
from neuroscope.studies.atlas.filled import unfilled

Flags = NDArray[np.bool_]

FEWEST_PROMPTS = 4
"""Smallest number of prompts that may be required of a topic: each half needs some."""
_LEAST_SHARE = 1 / 4
"""Smallest share of a topic's prompts that each half has if `auto` divides by source.

With fewer, the values of the smaller half are much less precise than with halves of the prompts.
"""
_SOURCE = "source"
"""Column of the sources unless the experiment names another."""
_SURFACE = ("question_mark", "digits", "upper_case")
"""Covariates that are computed from the text; the number of tokens is added later."""


class TopicSettings(Protocol):
    """Keys of an experiment that say what its topics are, and how they are divided."""

    topic: str
    separator: str
    source: str
    split: Literal["auto", "prompt", "source"]
    least_prompts: int
    leave_out: bool
    seed: int

    @property
    def prompt_set(self) -> Prompts: ...

    @property
    def model_fields_set(self) -> set[str]:
        """Keys that are not left at their defaults."""
        ...


@dataclass(frozen=True, eq=False)
class Chosen:
    """Prompts that are chosen at random such that every topic can be measured."""

    indices: NDArray[np.int64]
    """(prompts,) in ascending order."""
    inside: Flags
    """(prompts, topics) whether a prompt is in the random sample of the prompts on a topic."""
    outside: Flags
    """(prompts, topics) whether a prompt is in the random sample of all other prompts."""


@dataclass(frozen=True, eq=False)
class TopicIndex:
    """What an atlas knows of each prompt apart from the model: topics, half, surface, source."""

    names: tuple[str, ...]
    """Names of the topics, sorted."""
    members: Flags
    """(prompts, topics) whether a prompt has a topic; a prompt may have several or none."""
    heldout: Flags
    """(prompts,) whether a prompt is in the held-out half."""
    ranks: NDArray[np.uint64]
    """(prompts,) random order of the prompts, the same for equal texts."""
    numbers: Mapping[str, NDArray[np.float64]]
    """Numeric covariate -> (prompts,) its values."""
    sources: NDArray[np.str_]
    """(prompts,) source of each prompt; empty text if there is none."""
    split: str
    """What the halves are divided by: `prompt` or `source`."""
    notes: tuple[str, ...]
    """Sentences on prompts and topics that are left out."""

    @classmethod
    def of(cls, experiment: TopicSettings) -> "TopicIndex":
        """Read the topics of an experiment's prompts.

        Raises:
            ExperimentError: a column is missing, there are fewer than two topics, or a topic has
                too few prompts.
            PromptError: the file of prompts is malformed.
        """
        prompts = unfilled(experiment.prompt_set)  # the surface is not that of the template
        rows = [_Row.of(prompt, experiment) for prompt in prompts]
        _check_source(rows, experiment)
        names, notes = _choose_topics([row.topics for row in rows], experiment)
        position = {name: index for index, name in enumerate(names)}
        members = np.zeros((len(rows), len(names)), dtype=bool)
        for index, row in enumerate(rows):
            members[index, [position[name] for name in row.topics if name in position]] = True
        ranks = np.array([row.rank for row in rows])
        sources = np.array([row.source or "" for row in rows])
        split, heldout = _halves(experiment, members, ranks, sources)
        _check_halves(names, members, heldout)
        surface = np.array([row.surface for row in rows], dtype=np.float64).T
        numbers = dict(zip(_SURFACE, surface, strict=True))
        return cls(names, members, heldout, ranks, numbers, sources, split, tuple(notes))

    def __len__(self) -> int:
        return len(self.heldout)

    @property
    def random_half(self) -> Flags:
        """(prompts,) whether a prompt is in the second of two random halves of the prompts.

        If the prompts are divided by prompt, it is the held-out half.
        """
        return _by_prompt(self.ranks)

    def pilot(self, count: int) -> NDArray[np.int64]:
        """Return the indices of up to `count` random prompts of the selection half."""
        order = np.argsort(self.ranks, kind="stable")
        return np.sort(order[~self.heldout[order]][:count])

    def sample(self, count: int, *, heldout: bool | None = None) -> NDArray[np.int64]:
        """Return the indices of up to `count` random prompts, of one half or of both."""
        order = np.argsort(self.ranks, kind="stable")[::-1]  # not those of the pilot
        chosen = order if heldout is None else order[self.heldout[order] == heldout]
        return np.sort(chosen[:count])

    def sample_topics(self, count: int, least: int) -> Chosen:
        """Return up to `count` random held-out prompts, and more of topics that they hardly have.

        Where fewer than `least` of them are on a topic, or off it, further random held-out prompts
        on or off this topic are added for this topic alone, up to `least` or all there are. Both
        sides of a topic are thus uniform random samples.
        """
        order = np.argsort(self.ranks, kind="stable")[::-1]  # that of `sample`
        order = order[self.heldout[order]]
        members = self.members[order]
        places = np.arange(len(order))[:, None]
        inside, outside = (
            side & (places <= np.maximum(_last_of(side, least), count - 1))
            for side in (members, ~members)
        )
        taken = np.flatnonzero((inside | outside).any(axis=1))
        taken = taken[np.argsort(order[taken])]
        return Chosen(order[taken], inside[taken], outside[taken])

    def save(self, path: Path) -> None:
        """Write the index as a NumPy file, atomically."""
        arrays: dict[str, Any] = {f"number.{name}": values for name, values in self.numbers.items()}
        with atomic_write(path) as file:
            np.savez_compressed(
                file,
                names=np.array(self.names),
                members=self.members,
                heldout=self.heldout,
                ranks=self.ranks,
                sources=self.sources,
                split=np.array(self.split),
                notes=np.array(self.notes, dtype=str),
                **arrays,
            )

    @classmethod
    def load(cls, path: Path) -> "TopicIndex":
        """Read an index that `save` has written."""
        with np.load(path, allow_pickle=False) as arrays:
            numbers = {
                name.removeprefix("number."): arrays[name]
                for name in arrays
                if name.startswith("number.")
            }
            return cls(
                tuple(arrays["names"].tolist()),
                arrays["members"],
                arrays["heldout"],
                arrays["ranks"],
                numbers,
                arrays["sources"],
                str(arrays["split"]),
                tuple(arrays["notes"].tolist()),
            )


@dataclass(frozen=True)
class _Row:
    """What an atlas knows of one prompt."""

    topics: tuple[str, ...]
    source: str | None
    rank: np.uint64
    surface: tuple[float, float, float]

    @classmethod
    def of(cls, prompt: Prompt, experiment: TopicSettings) -> "_Row":
        digest = hashlib.blake2b(f"{experiment.seed} {prompt.text}".encode(), digest_size=8)
        return cls(
            _topics_of(prompt.labels.get(experiment.topic, ""), experiment.separator),
            prompt.labels.get(experiment.source or _SOURCE),
            np.uint64(int.from_bytes(digest.digest())),
            _surface_of(prompt.text),
        )


def _topics_of(text: str, separator: str) -> tuple[str, ...]:
    """Return the topics of a prompt: a JSON list, texts between separators, or one text."""
    values: list[object] = [*text.split(separator)] if separator else [text]
    if text.lstrip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            values = [value for value in json.loads(text) if value is not None]
    return tuple(dict.fromkeys(name for value in values if (name := str(value).strip())))


def _surface_of(text: str) -> tuple[float, float, float]:
    """Return whether a text has a question mark, and its shares of digits and capitals."""
    letters = sum(map(str.isalpha, text))
    digits = sum(map(str.isdigit, text)) / len(text)
    return float("?" in text), digits, sum(map(str.isupper, text)) / max(letters, 1)


def _check_source(rows: Sequence[_Row], experiment: TopicSettings) -> None:
    """Raise ExperimentError if a column of sources is named and no prompt has it."""
    if experiment.source and all(row.source is None for row in rows):
        raise _missing(experiment, "source", experiment.source)


def _choose_topics(
    topics: Sequence[Sequence[str]], experiment: TopicSettings
) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of the topics, and sentences on what is left out."""
    names, counts = np.unique([name for own in topics for name in own], return_counts=True)
    if not len(names):
        raise _missing(experiment, "topic", experiment.topic)
    enough = counts >= experiment.least_prompts
    notes = [
        f"the topic '{name}' is left out, as it has only {counted(int(count), 'prompt')}"
        for name, count in zip(names[~enough], counts[~enough], strict=True)
    ]
    if notes and not experiment.leave_out:
        small = ", ".join(
            f"'{name}' ({count})"
            for name, count in zip(names[~enough], counts[~enough], strict=True)
        )
        options = [Option("leave_out", True, "leave them out")]
        if counts.min() >= FEWEST_PROMPTS:
            options.append(Option("least_prompts", int(counts.min()), "accept that few prompts"))
        raise ExperimentError(
            f"topics with fewer than {experiment.least_prompts} prompts: {small}", options=options
        )
    chosen = tuple(names[enough].tolist())
    if len(chosen) < 2:
        raise ExperimentError(
            f"an atlas needs at least two topics with {experiment.least_prompts} or more prompts;"
            f" the column '{experiment.topic}' has {', '.join(map(repr, chosen)) or 'none'}",
            remedy="add prompts, or name another column of topics",
        )
    without = sum(not own for own in topics)
    if without:
        notes.append(f"{without:,} of {len(topics):,} prompts have no topic")
    return chosen, notes


def _missing(experiment: TopicSettings, key: str, column: str) -> ExperimentError:
    """Return the error for a column of labels that no prompt has."""
    known = sorted({name for prompt in experiment.prompt_set for name in prompt.labels})
    listed = f"; they have {', '.join(known)}" if known else ", and no column but their texts"
    free = [name for name in known if name not in (experiment.topic, experiment.source)]
    nearest = get_close_matches(column, free, n=1, cutoff=0)
    error = ExperimentError(
        f"the prompts have no column '{column}'{listed}",
        options=[Option(key, name, f"name the column of the {key}s") for name in nearest],
        remedy="" if nearest else f"add a column of {key}s, in a CSV file for example",
    )
    error.keys = (key,) if key in experiment.model_fields_set else ()
    return error


def _halves(
    experiment: TopicSettings,
    members: Flags,
    ranks: NDArray[np.uint64],
    sources: NDArray[np.str_],
) -> tuple[str, Flags]:
    """Return what the halves are divided by, and the flags of the held-out half."""
    by_prompt = _by_prompt(ranks)
    if experiment.split == "prompt":
        return "prompt", by_prompt
    if experiment.split == "source" and len(np.unique(sources)) == 1:
        raise ExperimentError(
            "the prompts have one source, or none, by which they cannot be divided",
            options=[Option("split", "prompt", "divide them at random")],
        )
    by_source = _by_source(members, sources)
    smaller = np.minimum(members[by_source].sum(axis=0), members[~by_source].sum(axis=0))
    enough = bool(smaller.min() >= experiment.least_prompts / 2)
    balanced = bool((smaller >= _LEAST_SHARE * members.sum(axis=0)).all())
    if enough and (balanced or experiment.split == "source"):
        return "source", by_source
    if experiment.split == "source":
        raise ExperimentError(
            "the prompts cannot be divided by source: a topic would have fewer than"
            f" {-(-experiment.least_prompts // 2)} prompts in one half",
            options=[Option("split", "prompt", "divide them at random")],
        )
    return "prompt", by_prompt


def _last_of(flags: Flags, count: int) -> NDArray[np.int64]:
    """Return the row of the last of the first `count` flags of each column; -1 if it has none."""
    rows = [np.flatnonzero(column)[:count] for column in flags.T]
    return np.array([own[-1] if len(own) else -1 for own in rows])


def _by_prompt(ranks: NDArray[np.uint64]) -> Flags:
    """Assign each prompt to a half at random, equal texts to the same half."""
    odd: Flags = ranks % np.uint64(2) == 1
    return odd


def _by_source(members: Flags, sources: NDArray[np.str_]) -> Flags:
    """Assign each source, the largest first, to the half that has fewer prompts of its topics."""
    _, own, counts = np.unique(sources, return_inverse=True, return_counts=True)
    topics = np.zeros((len(counts), members.shape[1]), dtype=np.int64)  # prompts per source
    np.add.at(topics, own, members)
    heldout = np.zeros(len(counts), dtype=bool)
    totals = np.zeros((2, members.shape[1]), dtype=np.int64)
    for source in np.argsort(-counts, kind="stable"):
        heldout[source] = totals[1] @ topics[source] < totals[0] @ topics[source]
        totals[int(heldout[source])] += topics[source]
    result: Flags = heldout[own]
    return result


def _check_halves(names: Sequence[str], members: Flags, heldout: Flags) -> None:
    """Raise ExperimentError if a topic, or its complement, is missing from a half."""
    for half in (heldout, ~heldout):
        inside = members[half].sum(axis=0)
        for name, count in zip(names, inside.tolist(), strict=True):
            if not 0 < count < half.sum():
                raise ExperimentError(
                    f"{'no' if not count else 'every'} prompt in one half has the topic '{name}'",
                    remedy="add prompts, or change the seed",
                )
