"""Experiment of an atlas: prompts with topics, and what makes a neuron selective for a topic."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from neuroscope.experiment import ModelsExperiment, PromptSource, make_experiment
from neuroscope.experiment_faults import about, validator
from neuroscope.experiment_values import check_study_site, plain_name
from neuroscope.prompts import Prompts, fill_template
from neuroscope.studies.atlas.filled import FilledPrompts
from neuroscope.studies.atlas.topics import FEWEST_PROMPTS, TopicIndex

LEAST_PROMPTS = 20
"""Default number of prompts below which nothing is said about a topic."""


def _check_template(template: str) -> None:
    """Raise PromptError unless a template is empty or contains {} once."""
    if template:
        fill_template(template, ["text"])


class AtlasExperiment(ModelsExperiment):
    """Study of which neurons respond to which topics, over any number of prompts."""

    kind: Literal["atlas"] = Field(
        "atlas", description="`atlas`: a database of neurons and the topics they respond to"
    )
    prompts: PromptSource = Field(description="The prompts: `texts`, a `template` or a `file`")
    site: Annotated[str, validator(check_study_site)] = Field(
        "mlp_act",
        description="Component whose neurons are described: `mlp_act` (default), `resid_post`,"
        " `mlp_out`, `attn_out`, `resid_pre` or `final`; with a layer (`mlp_act.3`), only that"
        " layer is read",
    )
    pool: Literal["mean", "max"] = Field(
        "mean", description="Pooling of a prompt's tokens into one value per neuron"
    )
    prompt_template: Annotated[str, validator(_check_template)] = Field(
        "",
        description="Text that contains {} once, into which each prompt is put, such as"
        " `Which topic is this? {}`; by default prompts are read as they are",
    )
    topic: str = Field("topic", description="Column of the topics")
    separator: str = Field(
        "",
        description="Text between several topics of one prompt, such as `;`; JSON lists need none",
    )
    source: str = Field(
        "",
        description="Column of the source of each prompt; by default `source`, if there is one",
    )
    split: Literal["auto", "prompt", "source"] = Field(
        "auto",
        description="Unit of the split into the half that selects neurons and the held-out half:"
        " `prompt`, `source`, or `auto` (by source if both halves then have enough prompts of every"
        " topic, and at least a quarter of them)",
    )
    least_prompts: int = Field(
        LEAST_PROMPTS, ge=FEWEST_PROMPTS, description="Minimum number of prompts per topic"
    )
    leave_out: bool = Field(
        False, description="Leave out topics with fewer prompts instead of failing"
    )
    min_auroc: float = Field(
        0.75,
        gt=0.5,
        le=1,
        description="Smallest AUROC of a selective neuron in both halves; for a neuron that is"
        " silent on a topic, 1 minus the AUROC counts",
    )
    min_lift: float = Field(
        2,
        ge=1,
        description="Smallest average precision of a selective neuron, as a multiple of the"
        " topic's share of the prompts (or half of the way to 1, if that is less)",
    )
    min_one_vs_one: float = Field(
        0.65, ge=0.5, le=1, description="Smallest AUROC against any single other topic"
    )
    max_q: float = Field(0.05, gt=0, le=1, description="Largest q-value (Benjamini-Hochberg)")
    shards: int = Field(1, ge=1, description="Number of tasks among which the prompts are divided")
    pilot: int = Field(
        2048,
        ge=100,
        description="Number of prompts from which the bins of the histograms and the effect of"
        " length, punctuation and source are estimated",
    )
    examples: int = Field(
        10, ge=1, le=100, description="Number of strongest and of weakest prompts kept per neuron"
    )
    seed: int = Field(0, ge=0, description="Seed of the division into halves and of samples")

    @cached_property
    def topic_index(self) -> TopicIndex:
        """Topics, halves and covariates of the prompts.

        Raises:
            ExperimentError, PromptError: as in `TopicIndex.of`.
        """
        with about("prompts", "file"):
            return TopicIndex.of(self)

    def prompt_sources(self) -> list[PromptSource]:
        return [self.prompts]

    @cached_property
    def prompt_set(self) -> Prompts:
        """Prompts of the experiment; a file is read once in full, then part by part as needed.

        Raises:
            PromptError: the file is missing or malformed.
        """
        with about("prompts", "file"):
            prompts = self.prompts.prompts()
        return FilledPrompts.of(prompts, self.prompt_template) if self.prompt_template else prompts


def atlas_experiment(
    name: str, models: list[str], prompts: dict[str, Any], **settings: Any
) -> AtlasExperiment:
    """Create the experiment of an atlas without a YAML file.

    Args:
        name: name of the experiment; if empty, that of the file.
        models: names of the models.
        prompts: keys and values of a `PromptSource`.
        settings: other keys of the experiment, with their values.

    Raises:
        ExperimentError: as in `make_experiment`.
    """
    name = name or plain_name(Path(prompts.get("file", "")).stem, "atlas")
    data = {"kind": "atlas", "name": name, "models": models, "prompts": prompts}
    return make_experiment(AtlasExperiment, data | settings)
