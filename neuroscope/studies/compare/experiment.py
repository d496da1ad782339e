"""Experiment of a comparison: groups of prompts, of which every pair is compared."""

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from neuroscope.errors import ExperimentError
from neuroscope.experiment import (
    ModelsExperiment,
    PromptSource,
    Settings,
    make_experiment,
)
from neuroscope.experiment_faults import about, checked, validator
from neuroscope.experiment_values import layers_text, plain_name
from neuroscope.labels import pair_labels
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site

MOST_PROMPTS = 200
"""Maximum number of prompts in a group; so many have almost 20,000 pairs."""


def _plot_layers_text(value: Any) -> str:
    return "middle" if value == "middle" else layers_text(value)


class PromptGroup(PromptSource):
    """Group of prompts that are compared with each other."""

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        if not self.file:  # a file is read when the study is checked
            checked(self.prompt_texts)
        return self

    def prompt_texts(self) -> list[str]:
        """Return the prompts as texts.

        Raises:
            PromptError: the file is missing or malformed.
            ExperimentError: there are fewer than two prompts, too many, or one twice.
        """
        texts = [prompt.text for prompt in itertools.islice(self.prompts(), MOST_PROMPTS + 1)]
        _check_texts(texts, f"{self.file}: " if self.file else "")
        return texts


def _check_texts(texts: Sequence[str], source: str) -> None:
    """Raise ExperimentError unless prompts can be compared; the message begins with `source`."""
    repeated = next((text for text in texts if texts.count(text) > 1), None)
    if repeated is not None:
        raise ExperimentError(f"{source}prompt {repeated!r} appears twice", remedy="remove one")
    if len(texts) < 2:
        raise ExperimentError(
            f"{source}there is only one prompt ({texts[0]!r})", remedy="give at least two"
        )
    if len(texts) > MOST_PROMPTS:
        raise ExperimentError(
            f"{source}there are more than {MOST_PROMPTS} prompts, of which every pair would be"
            " compared",
            remedy="give fewer, or use the study `layers`",
        )


class PublishedPair(Settings):
    """Published figures for one pair of prompts."""

    a: str = Field(description="First prompt, word for word")
    b: str = Field(description="Second prompt, word for word")
    cosine: float = Field(description="Published cosine similarity")
    mse: float = Field(description="Published mean squared error")


class PublishedFigures(Settings):
    """Published figures, shown beside the measured ones; they hold for one model and site only."""

    model: str = Field(description="Model for which the figures were measured, as in `models`")
    site: Annotated[str, validator(Site.parse)] = Field(
        description="Site at which the figures were measured, with its layer"
    )
    source: str = Field(description="Source of the figures, such as a citation")
    pairs: list[PublishedPair] = Field(
        min_length=1, description="Figures, one entry per pair of prompts"
    )


class CompareExperiment(ModelsExperiment):
    """Comparison of every pair of prompts within each group."""

    kind: Literal["compare"] = Field(
        "compare", description="`compare`: compare prompts with each other"
    )
    prompts: list[PromptGroup] = Field(
        min_length=1, description="Groups of prompts; pairs are formed within a group"
    )
    plot_layers: Annotated[str, BeforeValidator(_plot_layers_text)] = Field(
        "middle",
        description="Layers drawn neuron by neuron: `middle` (the 6th of 12, the 3rd of 6), or as"
        " in `layers`",
    )
    published: PublishedFigures | None = Field(
        None, description="Published figures to show beside the measured ones"
    )

    def prompt_sources(self) -> list[PromptSource]:
        return list(self.prompts)

    @cached_property
    def groups(self) -> list[list[str]]:
        """Texts of each group; a file is read once."""
        groups = []
        for index, group in enumerate(self.prompts):
            with about("prompts", index):
                groups.append(group.prompt_texts())
        return groups

    @cached_property
    def prompt_set(self) -> PromptSet:
        """Every distinct prompt of all groups, in the order in which they first appear."""
        return PromptSet.of(dict.fromkeys(itertools.chain.from_iterable(self.groups)))

    def pairs(self) -> list[tuple[str, str]]:
        """Return every pair of prompts within a group, each once, as texts."""
        distinct: dict[frozenset[str], tuple[str, str]] = {}
        for pair in self._pairs():
            distinct.setdefault(frozenset(pair), pair)
        return list(distinct.values())

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for texts in self.groups:
            yield from itertools.combinations(texts, 2)


def compare_experiment(
    models: Sequence[str], group: dict[str, Any], *, name: str = "", **settings: Any
) -> CompareExperiment:
    """Create the experiment of a comparison of one group of prompts without a YAML file.

    Args:
        models: names of the models.
        group: keys and values of a `PromptGroup`.
        name: name of the experiment; by default that of the file, or the words in which the first
            two prompts differ, such as `cat-vs-dog`.
        settings: other keys of the experiment, with their values.

    Raises:
        ExperimentError: as in `make_experiment`.
    """
    data = {"kind": "compare", "name": name or "compare", "models": [*models], "prompts": [group]}
    experiment = make_experiment(CompareExperiment, data | settings)
    (prompts,) = experiment.prompts
    label = Path(prompts.file).stem or next(iter(pair_labels(experiment.pairs()).values()))
    return experiment.model_copy(update={"name": name or plain_name(label, "compare")})
