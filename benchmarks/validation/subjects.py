"""The models and texts that changes are planted in: created here, or given by the user."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from benchmarks.validation.changes import model_folder
from benchmarks.validation.checks import Base
from benchmarks.validation.one_topic import typical_words
from benchmarks.validation.synthetic import (
    MIXTURE,
    PLANTED,
    Labelled,
    generate,
    make_untrained,
    read_labelled,
    texts_of,
    words_of,
    write_labelled,
)
from benchmarks.validation.training import trained

PROMPTS = 400
"""Prompts of a check; the texts after them are for training."""
ENCODER = "minilm"
_POPULATION = 4000  # texts from which prompts are sampled
_SENTENCES = 200  # prompts among the sentences that come with neuroscope
_STEPS, _FURTHER = 500, 200  # of training, and of training further
_RATE, _FURTHER_RATE = 5e-3, 3e-4
CREATED = "small causal model"
"""Name of the model that is trained here."""


@dataclass(frozen=True)
class Subject:
    """A model in which changes are planted."""

    label: str
    """Description in the tables."""
    base: Base
    source: Path
    """Folder of the model's files."""
    training: Sequence[str]
    """Texts to train it further with."""
    causal: bool
    rate: float
    """Learning rate with which it is trained further."""


@dataclass(frozen=True)
class Versions:
    """Versions of a causal model."""

    label: str
    base: Path
    same: Path
    """The base, trained further on texts like those that it was trained on."""
    other: Path
    """The base, trained further on one topic."""
    topic: str
    words: Collection[str]
    """Words of that topic."""
    texts: Labelled
    """Prompts, then texts to train with."""

    @property
    def prompts(self) -> Labelled:
        """Texts with which versions are checked."""
        return self.texts[:PROMPTS]

    @property
    def population(self) -> list[str]:
        """Texts from which prompts are sampled: those given, or as many as needed."""
        if self.label == CREATED:
            return texts_of(generate(_POPULATION, seed=4))
        return texts_of(self.texts[:_POPULATION])

    def subject(self, folder: Path) -> Subject:
        """Return the base as a model in which changes are planted.

        Args:
            folder: existing folder for the file of prompts.
        """
        prompts = write_labelled(folder / "causal.csv", self.prompts)
        training = [text for text, topic in self.texts[PROMPTS:] if topic == self.topic]
        return Subject(
            self.label, Base(str(self.base), prompts), self.base, training, causal=True, rate=3e-4
        )


def create_versions(
    folder: Path, steps: int = _STEPS, further: int = _FURTHER, rate: float = _FURTHER_RATE
) -> Versions:
    """Train a small causal model, and two further versions of it.

    Args:
        folder: folder for the models.
        steps: number of steps of training.
        further: number of steps of training further.
        rate: learning rate of training further.
    """
    mixture = texts_of(generate(6000, seed=1, topics=MIXTURE))
    planted = generate(1000, seed=2, topics=[PLANTED])
    start = make_untrained(folder / "untrained")
    base = trained(start, folder / "base", mixture, steps, rate=_RATE)
    same, other = (
        trained(base, folder / name, texts, further, rate=rate, seed=1)
        for name, texts in (("same", mixture), ("other", texts_of(planted)))
    )
    prompts = generate(PROMPTS, seed=3)
    return Versions(CREATED, base, same, other, PLANTED, words_of(PLANTED), [*prompts, *planted])


def given_versions(folders: Sequence[Path], file: Path, topic: str) -> Versions:
    """Return versions that the user has, with texts from a CSV file (text, topic)."""
    base, same, other = (folder.resolve() for folder in folders)
    texts = read_labelled(file)
    words = typical_words(texts, topic)
    return Versions(base.name, base, same, other, topic, words, texts)


def encoder(folder: Path, texts: Labelled = ()) -> Subject:
    """Return the built-in encoder, with sentences that come with neuroscope or with given texts.

    Args:
        folder: existing folder for the file of prompts.
        texts: prompts, then texts to train with.
    """
    text = files("neuroscope").joinpath("data/baseline_prompts.txt").read_text(encoding="utf-8")
    rows = texts or [(line, "") for line in text.splitlines()]
    count = PROMPTS if texts else _SENTENCES
    prompts = write_labelled(folder / "encoder.csv", rows[:count])
    training = texts_of(rows[count:])
    base = Base(ENCODER, prompts)
    return Subject(ENCODER, base, model_folder(ENCODER), training, causal=False, rate=1e-4)
