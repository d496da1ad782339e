"""A small experiment of associations with the words of the tiny models, and planted ones."""

import json

from models import copy_with_weights

from neuroscope.experiment import make_experiment
from neuroscope.studies.association.experiment import AssociationExperiment

TEMPLATES = [
    "the {} is in the house .",
    "a {} sits on the mat .",
    "the old {} walks in .",
    "is the {} young ?",
    "the very old {} runs .",
    "the young {} was very small .",
    "in the house is the {} .",
    "a {} was not in the house .",
]
"""In the last but one, no word follows the gap."""
SETTINGS = {
    "kind": "association",
    "name": "planted",
    "templates": TEMPLATES,
    "roles": ["engineer", "nurse"],
    "groups": {"men": ["man", "boy", "king"], "women": ["woman", "girl", "queen"]},
    "control_roles": ["cat", "dog", "transgender", "mat"],
    "control_words": ["black", "white", "red", "green", "blue", "small", "young", "very", "sits"],
}
CONTRASTS = [("engineer", "men", "women"), ("nurse", "men", "women")]


def association(*models, **settings) -> AssociationExperiment:
    """Return the small experiment with other models or settings."""
    values = {"models": [str(model) for model in models] or ["minilm"], **settings}
    return make_experiment(AssociationExperiment, SETTINGS | values)


def planted(folder, target, strength=1.0):
    """Copy a model; the embedding of 'engineer' becomes that of 'man', and of 'nurse' 'woman'."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]

    def change(weights):
        (name,) = [key for key in weights if key.endswith("word_embeddings.weight")]
        values = weights[name].clone()
        for role, word in (("engineer", "man"), ("nurse", "woman")):
            mixed = strength * values[vocabulary[word]]
            values[vocabulary[role]] = mixed + (1 - strength) * values[vocabulary[role]]
        return weights | {name: values}

    return copy_with_weights(folder, target, change)
