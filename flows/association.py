"""Form that starts a study of associations from the Prefect UI."""

from typing import Annotated, Any

from pydantic import Field

from flows.form import NOT_BLANK, Models, OptionalDtype, OptionalSite, checks
from flows.study_flow import study_form
from neuroscope.studies.association.experiment import (
    AssociationExperiment,
    association_experiment,
)

ExperimentPath = Annotated[str, Field(json_schema_extra=checks({"pattern": NOT_BLANK}))]
"""Path of an experiment file."""


@study_form
def association(
    file: ExperimentPath = "experiments/occupations_gender.yaml",
    models: Models = ["minilm"],  # noqa: B006 - never modified
    site: OptionalSite = "",
    layers: str = "",
    truncate: bool = False,
    dtype: OptionalDtype = "",
    device: str = "",
    note: str = "",
) -> AssociationExperiment:
    """Measure which roles a model brings close to which groups, against control words.

    Args:
        file: Experiment file (YAML) with templates, roles, groups and control words on the worker's
            machine; a relative path starts at the folder of prefect.yaml.
        models: Built-in names (minilm), folders on the worker's machine, Hugging Face ids, or
            models in the MLflow registry (models:/name/3, models:/name@alias); they replace those
            of the file.
        site: Component of each layer to read: resid_pre, attn_out, mlp_act (the MLP's neurons),
            mlp_out, resid_post (the residual stream leaving the layer) or final (after the last);
            by default that of the file.
        layers: Layers to read: all, one layer (5), a range (2-5), a list (0,2,5), or -1 for the
            last; they count from 0; by default those of the file.
        truncate: Truncate prompts at the model's limit instead of refusing them.
        dtype: Number format of the forward pass: float32, bfloat16 or float16; by default that of
            the file.
        device: auto (a GPU if there is one), cpu, cpu:4 (four threads), cuda, cuda:1, mps or all
            (every GPU); by default that of the file.
        note: Description of the MLflow run; by default that of the file.
    """
    given = {"site": site, "layers": layers, "dtype": dtype, "device": device, "note": note}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value}
    if truncate:
        settings["truncate"] = True
    return association_experiment(file, models=models, **settings)
