"""Form that starts a comparison from the Prefect UI."""

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.study_flow import FLOW_OPTIONS, run_form
from neuroscope.options import StudySite
from neuroscope.studies.compare.experiment import compare_experiment


class Template(BaseModel):
    """Sentence with a gap, and the words that fill it."""

    model_config = ConfigDict(title="Template with fills", extra="forbid", frozen=True)
    template: str = Field(
        default="The engineer is a {}.",
        title="Template",
        description="A sentence with {} where the fills go.",
    )
    fills: list[str] = Field(
        default=["man", "woman", "transgender"],
        min_length=2,
        title="Fills",
        description="Two or more words; each gives one prompt.",
    )


class PromptList(BaseModel):
    """Prompts, each written in full."""

    model_config = ConfigDict(title="List of prompts", extra="forbid", frozen=True)
    texts: list[str] = Field(
        default=["The cat is on the mat", "The dog is on the mat"],
        min_length=2,
        title="Prompts",
        description="Two or more prompts.",
    )


@flow(name="compare", **FLOW_OPTIONS)
def compare(
    model: str = "minilm",
    prompts: Template | PromptList = Template(),  # noqa: B008 - immutable
    layers: str = "all",
    site: StudySite = "resid_post",
    note: str = "",
) -> None:
    """Compare what the neurons do for two or more prompts, at every layer.

    Args:
        model: A built-in name (minilm), a folder on the worker's machine, a Hugging Face id, or a
            model in the MLflow registry (models:/name/3, models:/name@alias).
        prompts: What to compare: a template with fills, or a list of prompts.
        layers: Layers to read: all, one layer (5), a range (2-5), a list (0,2,5), or -1 for the
            last; they count from 0.
        site: Component of each layer to read: mlp_act is the MLP's neurons, resid_post is the
            residual stream leaving the layer.
        note: Description of the MLflow run, kept with the results.
    """
    group = prompts.model_dump()
    experiment = compare_experiment([model], group, site=site, layers=layers, note=note)
    run_form(experiment, compare.fn)
