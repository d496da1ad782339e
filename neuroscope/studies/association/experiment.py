"""Experiment of a study of associations: templates, roles, groups and control words."""

import itertools
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from neuroscope.errors import ExperimentError
from neuroscope.experiment import (
    ModelsExperiment,
    PromptSource,
    make_experiment,
    yaml_spelling,
)
from neuroscope.experiment_faults import about, checked
from neuroscope.experiment_files import ExperimentFile
from neuroscope.extraction.statements import GROUP, ROLE
from neuroscope.files import absolute
from neuroscope.home import check_allowed
from neuroscope.prompts import Prompt, PromptSet

GAP = "{}"
_LONGEST_NAME = 60  # characters of a role or a group: MLflow's names of metrics contain both
_LEAST_CONTROLS = 2

Word = Annotated[str, StringConstraints(strip_whitespace=True)]
"""Word without blanks at its ends."""


class AssociationExperiment(ModelsExperiment):
    """Study of how much more similar roles are to one group of words than to another."""

    kind: Literal["association"] = Field(
        "association",
        description="`association`: which roles a model brings close to which groups",
    )
    templates: list[str] = Field(
        min_length=2,
        description="Sentences that contain {} exactly once, where each word goes in turn; they"
        " paraphrase each other, and a p-value needs 6 or more",
    )
    roles: list[Word] = Field(
        min_length=1, description="Words whose associations are measured, such as occupations"
    )
    groups: dict[str, list[Word]] = Field(
        min_length=2,
        description="Names of two or more groups, each with its words; a role that is a word of a"
        " group has contrasts of other groups only",
    )
    control_roles: list[Word] = Field(
        min_length=_LEAST_CONTROLS,
        description="Words without the association, of which the best matches by number of tokens"
        " and by frequency are compared with each role",
    )
    controls: int = Field(
        8, ge=_LEAST_CONTROLS, description="Number of control roles per role; 2 or more"
    )
    control_words: list[Word] = Field(
        [],
        description="Words without the groups' meaning; random groups of them and of the groups'"
        " words show how large a contrast is that does not depend on meaning. None by default",
    )
    statements: list[str] = Field(
        [],
        description="Sentences that contain {role} and {group}, each exactly once, for the"
        " predictions of masked language models",
    )
    seed: int = Field(0, ge=0, description="Seed of bootstrap resamples")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        checked(self._check)
        return self

    def _check(self) -> None:
        """Raise ExperimentError unless the templates have gaps, and the words are distinct."""
        for index, template in enumerate(self.templates):
            with about("templates", index):
                _check_gaps(template, [GAP])
        for index, statement in enumerate(self.statements):
            with about("statements", index):
                _check_gaps(statement, [ROLE, GROUP])
        lists = {
            ("templates",): self.templates,
            ("roles",): self.roles,
            ("control_roles",): self.control_roles,
            ("control_words",): self.control_words,
            ("statements",): self.statements,
        }
        for keys, texts in lists.items():
            _check_texts(keys, texts)
        for index, role in enumerate(self.roles):
            with about("roles", index):
                _check_length(role)
        self._check_groups()
        self._check_controls()

    def _check_groups(self) -> None:
        owners: dict[str, str] = {}
        for name, words in self.groups.items():
            with about("groups"):
                if not name.strip():
                    raise ExperimentError("a group has no name", remedy="name it")
                _check_length(name)
            if not words:
                with about("groups", name):
                    raise ExperimentError(
                        f"group '{name}' has no words", remedy="give it two or more"
                    )
            _check_texts(("groups", name), words)
            for word in words:
                first = owners.setdefault(_folded(word), name)
                if first != name:
                    with about("groups", name):
                        raise ExperimentError(
                            f"'{word}' is a word of the groups '{first}' and '{name}'",
                            remedy="remove it from one of them",
                        )
        if not self.contrasts:
            with about("roles"):
                raise ExperimentError(
                    "no role can be compared: each is a word of a group, and there are fewer than"
                    " two other groups",
                    remedy="add roles that are no words of a group, or a third group",
                )

    def _check_controls(self) -> None:
        """Raise ExperimentError if control words are words under study, or too few."""
        studied = {_folded(role): "a role" for role in self.roles}
        for name, words in self.groups.items():
            studied |= {_folded(word): f"a word of the group '{name}'" for word in words}
        for key in ("control_roles", "control_words"):
            for index, word in enumerate(getattr(self, key)):
                if owner := studied.get(_folded(word)):
                    with about(key, index):
                        raise ExperimentError(
                            f"control word '{word}' is {owner}, too", remedy="replace it"
                        )
            studied |= {_folded(word): "a control role" for word in self.control_roles}
        needed = len(self.group_words)
        if self.control_words and len(self.control_words) < needed:
            with about("control_words"):
                raise ExperimentError(
                    f"the groups have {needed} words, but there are fewer control words"
                    f" ({len(self.control_words)})",
                    remedy=f"give {needed} or more, or none",
                )

    def prompt_sources(self) -> list[PromptSource]:
        return []

    @property
    def group_words(self) -> list[str]:
        """Words of all groups, in order."""
        return list(itertools.chain.from_iterable(self.groups.values()))

    @property
    def words(self) -> list[str]:
        """Every word that fills the gap of the templates, once, in order."""
        lists = (self.roles, self.group_words, self.control_roles, self.control_words)
        return list(dict.fromkeys(itertools.chain.from_iterable(lists)))

    def keys_of(self, word: str) -> tuple[str | int, ...]:
        """Return the keys at which a word stands in the experiment."""
        for key in ("roles", "control_roles", "control_words"):
            words: list[str] = getattr(self, key)
            if word in words:
                return key, words.index(word)
        name = next(name for name, words in self.groups.items() if word in words)
        return "groups", name, self.groups[name].index(word)

    @property
    def contrasts(self) -> list[tuple[str, str, str]]:
        """Role and two groups of each contrast: every pair of groups without the role."""
        return [
            (role, a, b)
            for a, b in itertools.combinations(self.groups, 2)
            for role in self.roles
            if not any(
                _folded(role) == _folded(word) for word in (*self.groups[a], *self.groups[b])
            )
        ]

    @cached_property
    def prompt_set(self) -> PromptSet:
        """Every template with every word: the words of the first template come first."""
        return PromptSet(
            tuple(
                Prompt(f"{number}:{word}", template.replace(GAP, word), {"word": word})
                for number, template in enumerate(self.templates)
                for word in self.words
            )
        )


def association_experiment(file: str | Path, **settings: Any) -> AssociationExperiment:
    """Read an experiment of kind `association` from a YAML file.

    Args:
        file: path of the file.
        settings: keys of the experiment whose values replace those of the file.

    Raises:
        ExperimentError: the file is missing, is not YAML, is of another kind, or contains an
            unknown key or an invalid value; the message names the file and the line.
    """
    check_allowed(absolute(file))
    opened = ExperimentFile.read(file)
    kind = opened.data.get("kind")
    if kind != "association":
        raise ExperimentError(
            f"{opened.where(('kind',))}expected an experiment of kind 'association', not {kind!r}",
            remedy="give a file such as experiments/occupations_gender.yaml",
        )
    try:
        return make_experiment(
            AssociationExperiment,
            {**opened.data, **settings},
            where=opened.where,
            folder=opened.path.parent,
        )
    except ExperimentError as error:
        raise error.on(yaml_spelling) from error


def _check_gaps(text: str, gaps: Sequence[str]) -> None:
    """Raise ExperimentError unless a text contains each gap exactly once, and no other."""
    if any(text.count(gap) != 1 for gap in gaps) or not (
        text.count("{") == text.count("}") == len(gaps)
    ):
        named = " and ".join(f"'{gap}'" for gap in gaps)
        example = "The {} is waiting." if gaps == [GAP] else "The {role} is a {group}."
        raise ExperimentError(
            f"'{text}' must contain {named} exactly once",
            remedy=f"write, for example, '{example}'",
        )


def _check_length(name: str) -> None:
    """Raise ExperimentError if the name of a role or group is too long."""
    if len(name) > _LONGEST_NAME:
        raise ExperimentError(
            f"'{name[:_LONGEST_NAME]}…' has more than {_LONGEST_NAME} characters",
            remedy="shorten it",
        )


def _check_texts(keys: tuple[str, ...], texts: Iterable[str]) -> None:
    """Raise ExperimentError if a text is blank or appears twice."""
    known: set[str] = set()
    for index, text in enumerate(texts):
        with about(*keys, index):
            if not text.strip():
                raise ExperimentError("a text is blank", remedy="fill it in or remove it")
            if _folded(text) in known:
                raise ExperimentError(f"'{text}' appears twice", remedy="remove one")
        known.add(_folded(text))


def _folded(word: str) -> str:
    """Return a word as it is compared with others: many tokenizers ignore case."""
    return word.strip().casefold()
