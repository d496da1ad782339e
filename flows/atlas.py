"""Form that starts the building of an atlas from the Prefect UI."""

from typing import Annotated

from pydantic import Field

from flows.form import Models, NumberFormat, Site, checks
from flows.layers import PromptFile
from flows.study_flow import study_form
from neuroscope.studies.atlas.experiment import (
    LEAST_PROMPTS,
    AtlasExperiment,
    atlas_experiment,
)

AtlasPool = Annotated[str, Field(json_schema_extra=checks({"pattern": "^(mean|max)$"}))]
"""Pooling of a prompt's tokens."""
Split = Annotated[str, Field(json_schema_extra=checks({"pattern": "^(auto|prompt|source)$"}))]
"""What the two halves of the prompts are divided by."""


@study_form
def atlas(
    prompts: PromptFile = PromptFile(),  # noqa: B008 - immutable
    topic: str = "topic",
    separator: str = "",
    source: str = "",
    split: Split = "auto",
    least_prompts: int = LEAST_PROMPTS,
    leave_out: bool = False,
    models: Models = ["minilm"],  # noqa: B006 - never modified
    site: Site = "mlp_act",
    layers: str = "all",
    pool: AtlasPool = "mean",
    min_auroc: float = 0.75,
    min_lift: float = 2,
    min_one_vs_one: float = 0.65,
    max_q: float = 0.05,
    shards: int = 1,
    truncate: bool = False,
    dtype: NumberFormat = "float32",
    device: str = "auto",
    note: str = "",
) -> AtlasExperiment:
    """Build an atlas: a database of neurons and the topics they respond to.

    Args:
        prompts: Prompts with their topics: 1,000 to several hundred thousand.
        topic: Column of the topics.
        separator: Text between several topics of one prompt, such as a semicolon; JSON lists need
            none.
        source: Column with the source of each prompt; leave it empty if the column is named source
            or if there is none.
        split: Unit of the split into selection half and held-out half: prompt (at random), source,
            or auto (by source if both halves then have a fair share of every topic).
        least_prompts: Minimum number of prompts per topic.
        leave_out: Leave out topics with fewer prompts instead of failing.
        models: Built-in names (minilm), folders on the worker's machine, Hugging Face ids, or
            models in the MLflow registry (models:/name/3, models:/name@alias).
        site: Component whose neurons are described: mlp_act (the MLP's neurons), resid_post (the
            residual stream leaving the layer), resid_pre, attn_out, mlp_out or final.
        layers: Layers to read: all, one layer (5), a range (2-5), a list (0,2,5), or -1 for the
            last; they count from 0.
        pool: Pooling of a prompt's tokens into one value per neuron: mean or max.
        min_auroc: Smallest AUROC of a selective neuron in both halves of the prompts.
        min_lift: Smallest average precision of a selective neuron, as a multiple of the topic's
            share of the prompts.
        min_one_vs_one: Smallest AUROC against any single other topic.
        max_q: Largest q-value (Benjamini-Hochberg).
        shards: Number of tasks among which the prompts are divided; finished tasks are kept if the
            flow run is interrupted.
        truncate: Truncate prompts at the model's limit instead of refusing them.
        dtype: Number format of the forward pass: float32, bfloat16 or float16.
        device: auto (a GPU if there is one), cpu, cpu:4 (four threads), cuda, cuda:1, mps or all
            (every GPU).
        note: Description of the MLflow run, kept with the results.
    """
    return atlas_experiment(
        "",
        models,
        {"file": prompts.file, "text_column": prompts.text_column},
        topic=topic,
        separator=separator,
        source=source,
        split=split,
        least_prompts=least_prompts,
        leave_out=leave_out,
        site=site,
        layers=layers,
        pool=pool,
        min_auroc=min_auroc,
        min_lift=min_lift,
        min_one_vs_one=min_one_vs_one,
        max_q=max_q,
        shards=shards,
        truncate=truncate,
        dtype=dtype,
        device=device,
        note=note,
    )
