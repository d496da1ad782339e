"""Form that starts a study of layers from the Prefect UI."""

from pathlib import Path

from prefect import flow

from flows.study_flow import FLOW_OPTIONS, run_form
from neuroscope.options import StudySite
from neuroscope.studies.layers.experiment import layers_experiment


@flow(name="layers", **FLOW_OPTIONS)
def layers(
    file: str = "experiments/topics.csv",
    models: list[str] = ["minilm"],  # noqa: B006 - never modified
    label: str = "",
    text_column: str = "text",
    site: StudySite = "resid_post",
    layers: str = "all",
    probes: bool = True,
    note: str = "",
) -> None:
    """Study how information evolves through the layers: what probes read, and its geometry.

    Args:
        file: File of prompts on the worker's machine (.txt, .csv, .tsv, .jsonl, .parquet), relative
            to the folder of prefect.yaml.
        models: Built-in names (minilm), folders on the worker's machine, Hugging Face ids, or
            models in the MLflow registry (models:/name/3, models:/name@alias).
        label: Label column that probes read, such as topic; may be empty if the file has only one
            label column.
        text_column: Column of the file that contains the prompts.
        site: Component of each layer to read: mlp_act is the MLP's neurons, resid_post is the
            residual stream leaving the layer.
        layers: Layers to read: all, one layer (5), a range (2-5), a list (0,2,5), or -1 for the
            last; they count from 0.
        probes: Fit probes for the label and for the identity of tokens.
        note: Description of the MLflow run, kept with the results.
    """
    experiment = layers_experiment(
        Path(file).stem,
        models,
        {"file": file, "text_column": text_column},
        label=label,
        site=site,
        layers=layers,
        probes=probes,
        note=note,
    )
    run_form(experiment, _FORM)


_FORM = layers.fn  # inside the function, the parameter `layers` hides the flow
