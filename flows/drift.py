"""Form that starts a check of drift from the Prefect UI."""

from flows.form import ITEM, NumberFormat, Site
from flows.layers import PromptFile
from flows.study_flow import study_form
from neuroscope.studies.drift.experiment import DriftExperiment, drift_experiment


@study_form
def drift(
    base: ITEM,
    candidate: ITEM,
    prompts: PromptFile = PromptFile(),  # noqa: B008 - immutable
    label: str = "",
    site: Site = "mlp_act",
    layers: str = "all",
    margin: float = 0.05,
    alpha: float = 0.05,
    replicates: int = 0,
    associations: str = "",
    truncate: bool = False,
    dtype: NumberFormat = "float32",
    candidate_dtype: NumberFormat = "float32",
    device: str = "auto",
    note: str = "",
) -> DriftExperiment:
    """Check whether a new version of a model may replace the old one, and explain what changed.

    Args:
        base: The old model: a built-in name (minilm), a folder on the worker's machine, a Hugging
            Face id, or a model in the MLflow registry (models:/name/3, models:/name@alias).
        candidate: The new model, named in the same way; it may be the old one in another number
            format.
        prompts: Prompts, with a label such as topic by which changes are reported.
        label: Label column; may be empty if the file has only one.
        site: Component whose neurons decide: mlp_act (the MLP's neurons), resid_post (the residual
            stream leaving the layer), resid_pre, attn_out, mlp_out or final.
        layers: Layers to read: all, one layer (5), a range (2-5), a list (0,2,5), or -1 for the
            last; they count from 0.
        margin: Largest acceptable statistic: the largest over layers of the median over neurons of
            1 - r.
        alpha: Rate of false alarms.
        replicates: Number of times that the base is compared with itself; 0 stands for 19, or as
            many as alpha requires.
        associations: Experiment file of kind association on the worker's machine, such as
            experiments/occupations_gender.yaml, whose associations are measured in both models;
            may be empty.
        truncate: Truncate prompts at the model's limit instead of refusing them.
        dtype: Number format of the base: float32, bfloat16 or float16.
        candidate_dtype: Number format of the candidate.
        device: auto (a GPU if there is one), cpu, cpu:4 (four threads), cuda, cuda:1, mps or all
            (every GPU).
        note: Description of the MLflow run, kept with the results.
    """
    return drift_experiment(
        base,
        candidate,
        {"file": prompts.file, "text_column": prompts.text_column},
        label=label,
        site=site,
        layers=layers,
        margin=margin,
        alpha=alpha,
        replicates=replicates or None,
        associations=associations,
        truncate=truncate,
        dtype=dtype,
        candidate_dtype=candidate_dtype,
        device=device,
        note=note,
    )
