"""Comparisons of tiny models, shared by several tests."""

from neuroscope.experiment import make_experiment
from neuroscope.studies.compare.experiment import CompareExperiment

MAN, WOMAN, BOY = (f"the engineer is a {fill} ." for fill in ("man", "woman", "boy"))


def experiment_for(*models, **changes):
    settings = {
        "kind": "compare",
        "name": "engineer",
        "models": [str(model) for model in models],
        "prompts": [{"template": "the engineer is a {} .", "fills": ["man", "woman", "boy"]}],
    }
    return make_experiment(CompareExperiment, settings | changes)


def all_runs(client):
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(ids)
