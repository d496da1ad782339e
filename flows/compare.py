"""Form that starts a comparison from the Prefect UI."""

from flows.form import Models, NumberFormat, OptionalFile, Prompts, Site, Template
from flows.study_flow import study_form
from neuroscope.studies.compare.experiment import CompareExperiment, compare_experiment


@study_form
def compare(
    models: Models = ["minilm"],  # noqa: B006 - never modified
    prompts: Prompts = ["The cat is on the mat", "The dog is on the mat"],  # noqa: B006
    template: Template = "",
    file: OptionalFile = "",
    site: Site = "resid_post",
    layers: str = "all",
    plot_layers: str = "middle",
    truncate: bool = False,
    dtype: NumberFormat = "float32",
    device: str = "auto",
    note: str = "",
) -> CompareExperiment:
    """Compare what the neurons do for two or more prompts, at every layer.

    Args:
        models: Built-in names (minilm), folders on the worker's machine, Hugging Face ids, or
            models in the MLflow registry (models:/name/3, models:/name@alias).
        prompts: Two or more prompts; or, with a template, the words that replace {} in it.
        template: Text that contains {} once, where the words above go; empty if the prompts are
            complete.
        file: File of prompts on the worker's machine (.txt, .csv, .tsv, .jsonl, .parquet), relative
            to the folder of prefect.yaml; it replaces the prompts above.
        site: Component of each layer to read: resid_pre, attn_out, mlp_act (the MLP's neurons),
            mlp_out, resid_post (the residual stream leaving the layer) or final (after the last).
        layers: Layers to read: all, one layer (5), a range (2-5), a list (0,2,5), or -1 for the
            last; they count from 0.
        plot_layers: Layers drawn neuron by neuron: middle, or as in layers.
        truncate: Truncate prompts at the model's limit instead of refusing them.
        dtype: Number format of the forward pass: float32, bfloat16 or float16.
        device: auto (a GPU if there is one), cpu, cpu:4 (four threads), cuda, cuda:1, mps or all
            (every GPU).
        note: Description of the MLflow run, kept with the results.
    """
    texts = {"texts": prompts} if not template else {"template": template, "fills": prompts}
    return compare_experiment(
        models,
        {"file": file, "template": template} if file else texts,
        site=site,
        layers=layers,
        plot_layers=plot_layers,
        truncate=truncate,
        dtype=dtype,
        device=device,
        note=note,
    )
