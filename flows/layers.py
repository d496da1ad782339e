"""Form that starts a study of layers from the Prefect UI."""

from pydantic import BaseModel, ConfigDict, Field

from flows.form import NOT_BLANK, Models, NumberFormat, Site, checks
from flows.study_flow import study_form
from neuroscope.studies.layers.experiment import LayersExperiment, layers_experiment


class PromptFile(BaseModel):
    """File of prompts on the worker's machine."""

    model_config = ConfigDict(
        title="File of prompts",
        extra="forbid",
        frozen=True,
        json_schema_extra={"required": ["file"]},  # so that an emptied field is refused
    )
    file: str = Field(
        default="experiments/topics.csv",
        title="File",
        description="A .txt, .csv, .tsv, .jsonl or .parquet file; a relative path starts at the"
        " folder of prefect.yaml.",
        json_schema_extra=checks({"pattern": NOT_BLANK}),
    )
    text_column: str = Field(
        default="text", title="Text column", description="Column that contains the prompts."
    )


@study_form
def layers(
    prompts: PromptFile = PromptFile(),  # noqa: B008 - immutable
    models: Models = ["minilm"],  # noqa: B006 - never modified
    label: str = "",
    site: Site = "resid_post",
    layers: str = "all",
    probes: bool = True,
    truncate: bool = False,
    dtype: NumberFormat = "float32",
    device: str = "auto",
    note: str = "",
) -> LayersExperiment:
    """Study how information evolves through the layers: what probes read, and its geometry.

    Args:
        prompts: Prompts, with labels if a probe is to read them.
        models: Built-in names (minilm), folders on the worker's machine, Hugging Face ids, or
            models in the MLflow registry (models:/name/3, models:/name@alias).
        label: Label column that probes read, such as topic; may be empty if the file has only one
            label column.
        site: Component of each layer to read: resid_pre, attn_out, mlp_act (the MLP's neurons),
            mlp_out, resid_post (the residual stream leaving the layer) or final (after the last).
        layers: Layers to read: all, one layer (5), a range (2-5), a list (0,2,5), or -1 for the
            last; they count from 0.
        probes: Fit probes for the label and for the identity of tokens.
        truncate: Truncate prompts at the model's limit instead of refusing them.
        dtype: Number format of the forward pass: float32, bfloat16 or float16.
        device: auto (a GPU if there is one), cpu, cpu:4 (four threads), cuda, cuda:1, mps or all
            (every GPU).
        note: Description of the MLflow run, kept with the results.
    """
    return layers_experiment(
        "",
        models,
        {"file": prompts.file, "text_column": prompts.text_column},
        label=label,
        site=site,
        layers=layers,
        probes=probes,
        truncate=truncate,
        dtype=dtype,
        device=device,
        note=note,
    )
