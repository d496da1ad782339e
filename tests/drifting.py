"""Pairs of tiny models whose changes are planted, prompts, and a registry with three versions."""

import pytest
import torch
from layered import labelled_prompts
from models import copy_with_weights, make_model
from registered import Register

from neuroscope.prompt_files import write_prompts
from neuroscope.reporting.tracking_server import embedded_database
from neuroscope.studies.drift.experiment import drift_experiment
from neuroscope.studies.drift.study import run_drift

CHANGED = 1
"""Layer that `changed` changes."""
QUICK = {"replicates": 3, "alpha": 0.25, "resamples": 100}
"""Settings of a check that takes little time."""


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """Return a file of 72 prompts on three topics."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    write_prompts(path, labelled_prompts())
    return path


@pytest.fixture(params=["bert", "llama"])
def base(request, tmp_path):
    """Return the folder of a model of three layers, with a language-model head in llama."""
    head = request.param == "llama"
    return make_model(request.param, tmp_path / "base", layers=3, head=head)


@pytest.fixture
def news(database, monkeypatch, tmp_path):
    """Register three versions: the champion, one that is hardly changed, and one that is."""
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts below the working directory
    monkeypatch.setattr("neuroscope.reporting.registered_model._SETTLE", 0.02)
    register = Register(embedded_database(database.parent))
    base = make_model("bert", tmp_path / "base", layers=2)
    for folder in (base, changed(base, 1e-4, name="close"), changed(base, 2.0, name="far")):
        register.point_to(str(folder), "news")
    register.client.set_registered_model_alias("news", "champion", "1")
    return register


def changed(folder, scale, pattern=f".{CHANGED}.", name="candidate"):
    """Copy a model and add noise to the matrices whose names contain a pattern."""

    def change(weights):
        torch.manual_seed(1)
        return {
            key: values + scale * values.std() * torch.randn_like(values)
            if pattern in key and values.ndim == 2
            else values
            for key, values in weights.items()
        }

    return copy_with_weights(folder, folder.parent / name, change)


def drift(base, candidate, prompts, tracker=None, **settings):
    """Return the result of a quick check."""
    options = QUICK | settings
    experiment = drift_experiment(str(base), str(candidate), {"file": str(prompts)}, **options)
    (result,) = run_drift(experiment, tracker)
    return result


def at(result, component="mlp_act"):
    """Return the rows of a result at a component."""
    return [row for row in result.sites if row.component == component]
