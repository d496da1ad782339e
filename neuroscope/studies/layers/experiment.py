"""Experiment of a study of layers: labelled prompts, and what probes read."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from neuroscope.experiment import ModelsExperiment, PromptSource, make_experiment
from neuroscope.experiment_faults import about
from neuroscope.experiment_values import plain_name
from neuroscope.prompts import Prompts
from neuroscope.studies.layers.labels import LEAST_PROBE_PROMPTS, studied_label


class LayersExperiment(ModelsExperiment):
    """Study of how prompts are represented at every layer, and of what probes read there."""

    kind: Literal["layers"] = Field(
        "layers", description="`layers`: how information evolves through the layers"
    )
    prompts: PromptSource = Field(description="The prompts: `texts`, a `template` or a `file`")
    label: str = Field(
        "",
        description="Label that probes read, such as `topic`; by default the only label column of"
        " the file, if there is one",
    )
    probes: bool = Field(
        True, description="Fit probes for the label and for the identity of tokens"
    )
    probe_prompts: int = Field(
        2000,
        ge=LEAST_PROBE_PROMPTS,
        description="Maximum number of prompts for the label's probe, drawn at random; at least 4"
        " per value of the label are used",
    )
    seed: int = Field(
        0, ge=0, description="Seed for drawing prompts and for splitting them into train and test"
    )

    def prompt_sources(self) -> list[PromptSource]:
        return [self.prompts]

    @cached_property
    def prompt_set(self) -> Prompts:
        """Prompts of the experiment; a file is read once in full, then part by part as needed.

        Raises:
            PromptError: the file is missing or malformed.
        """
        with about("prompts", "file"):
            return self.prompts.prompts()

    @cached_property
    def studied_label(self) -> str:
        """Label that is studied; empty if there is none.

        Raises:
            ExperimentError: as in `labels.studied_label`.
        """
        with about("label") if self.label else about("prompts", "file"):
            return studied_label(self.prompt_set, self.label, probes=self.probes)


def layers_experiment(
    name: str, models: list[str], source: dict[str, Any], **settings: Any
) -> LayersExperiment:
    """Create the experiment of a study of layers without a YAML file.

    Args:
        name: name of the experiment; if empty, that of the file.
        models: names of the models.
        source: keys and values of a `PromptSource`.
        settings: other keys of the experiment, with their values.

    Raises:
        ExperimentError: as in `make_experiment`.
    """
    name = name or plain_name(Path(source.get("file", "")).stem, "layers")
    data = {"kind": "layers", "name": name, "models": models, "prompts": source}
    return make_experiment(LayersExperiment, data | settings)
