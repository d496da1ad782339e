"""The check of drift between `minilm` and a changed copy, and the bare passes that it needs."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import MODEL, Contend, Outcome, Pooled, timed
from benchmarks.validation.changes import add_noise, copy_model, model_folder
from neuroscope.extraction.batching import batches, tokenise
from neuroscope.extraction.budget import FIXED_BUDGET, TokenBudget, usual_budget
from neuroscope.extraction.expected_tokens import spread_evenly
from neuroscope.extraction.models import Model, load_model
from neuroscope.options import Attention, Dtype
from neuroscope.prompts import Prompt
from neuroscope.studies.drift.check import PATCHED_PROMPTS
from neuroscope.studies.drift.experiment import USUAL_REPLICATES, DriftExperiment, drift_experiment
from neuroscope.studies.drift.replicates import draw_conditions
from neuroscope.studies.drift.rewording import REWORDINGS
from neuroscope.studies.drift.study import run_drift

NOISE = 0.03
"""Standard deviation of the noise in the candidate, by that of each matrix."""

Inputs = tuple[Model, dict[str, Any]]
"""Model, and its inputs for one batch."""

_WARM = 32  # prompts, or batches, that run before the clock starts


def check(texts: list[str]) -> Outcome:
    """Run a check with its default settings, from files to the result."""
    with _candidate() as candidate:

        def run(texts: list[str]) -> Pooled:
            run_drift(_experiment(candidate, texts))
            return {}

        return timed(run, texts, warm=_WARM)


def bare_passes(texts: list[str]) -> Outcome:
    """Run the forward passes of `check`, tokenised in advance, and record nothing."""
    import torch

    def run(passes: list[Inputs]) -> Pooled:
        with torch.inference_mode():
            for model, inputs in passes:
                model.module(**inputs)
        return {}

    with _candidate() as candidate:
        passes = list(_passes(_experiment(candidate, texts)))
        return timed(run, passes, warm=_WARM)


@contextmanager
def _candidate() -> Iterator[Path]:
    """Yield the folder of a changed copy of the model; a temporary folder is the home."""
    before = os.environ.get("NEUROSCOPE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NEUROSCOPE_HOME"] = folder
        try:
            yield copy_model(model_folder(MODEL), Path(folder) / "candidate", add_noise(NOISE))
        finally:
            del os.environ["NEUROSCOPE_HOME"]
            if before is not None:
                os.environ["NEUROSCOPE_HOME"] = before


def _experiment(candidate: Path, texts: Sequence[str]) -> DriftExperiment:
    return drift_experiment(MODEL, str(candidate), {"texts": list(texts)}, device="cpu")


def _passes(experiment: DriftExperiment) -> Iterator[Inputs]:
    """Yield the inputs of every forward pass that a check of models without a head needs.

    These are, over all prompts: base and candidate, as they are stored; the replicates, each in its
    number format, implementation of attention, padding and batches; the base on each rewording that
    changes tokens; base and candidate once more, side by side; and the candidate's layers on the
    base's inputs.
    Over the first prompts only: base, candidate, and the candidate with each patch.
    """
    load = _loader()
    prompts = experiment.prompt_set.prompts
    base, candidate = (
        load(name, experiment.dtype, experiment.attention) for name in experiment.models
    )
    usual = usual_budget("cpu")
    for model in (base, candidate):
        yield from _pass(model, prompts, usual)
    for condition in draw_conditions(experiment, USUAL_REPLICATES):
        replicate = copy(load(experiment.models[0], *condition.loading))
        replicate.padding_side = condition.padding_side
        yield from _pass(replicate, prompts, FIXED_BUDGET, condition.shuffle)
    for reword in REWORDINGS.values():
        reworded = [replace(prompt, text=reword(prompt.text)) for prompt in prompts]
        if not np.array_equal(tokenise(base, reworded).ids, tokenise(base, prompts).ids):
            yield from _pass(base, reworded, FIXED_BUDGET)
    for model in (base, candidate, candidate):
        yield from _pass(model, prompts, usual)
    patches = [candidate] * (base.layer_count + 1)
    patched = [prompts[index] for index in spread_evenly(len(prompts), PATCHED_PROMPTS)]
    for model in (base, candidate, *patches):
        yield from _pass(model, patched, usual)


def _pass(
    model: Model, prompts: Sequence[Prompt], budget: int, shuffle: int | None = None
) -> Iterator[Inputs]:
    """Yield the inputs of one pass over prompts."""
    block = tokenise(model, prompts)
    tokens = TokenBudget(budget)
    for batch in batches(model, block, token_rule="content", budget=tokens, shuffle=shuffle):
        yield model, dict(batch.inputs(model))


def _loader() -> Callable[[str, Dtype, Attention], Model]:
    """Return a function that loads a model on the CPU, once for each number format."""

    @cache
    def load(name: str, dtype: Dtype, attention: Attention) -> Model:
        return load_model(name, device="cpu", dtype=dtype, attention=attention)

    return load


DRIFT: dict[str, Contend] = {"bare-drift": bare_passes, "drift": check}
