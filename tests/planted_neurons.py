"""A small causal model with planted neurons: one that it uses for a topic, one only correlated."""

import torch
from atlased import WORDS
from models import copy_with_weights, make_model, make_tokenizer

from neuroscope.extraction.models import load_model

WIDTH, UNITS = 64, 96
FILLERS = "is was sits on in mat house black white small very old young and".split()
USED, CORRELATED, GENERAL = 0, 1, 2
"""Neurons of the last layer: the first two fire on words of animals, the third one on `the`."""
TOPIC_DIM, PAIR_DIM = 50, 60
"""Dimensions of the residual stream that raise the logits of animals, and that of `a`."""


def planted(weights):
    """Return weights in which each token has a dimension, and three neurons have known uses.

    `USED` raises the logits of animals after an animal, and `GENERAL` that of `a` after `the`;
    `CORRELATED` fires like `USED` but writes nothing. All other neurons write a little noise.
    """
    ids = make_tokenizer("llama").get_vocab()
    animals = [ids[word] for word in WORDS["animals"]]
    embeddings = torch.zeros(len(ids), WIDTH)
    embeddings[range(len(ids)), range(len(ids))] = 1
    head = torch.zeros(len(ids), WIDTH)
    head[animals, TOPIC_DIM] = 0.65
    head[ids["a"], PAIR_DIM] = 0.65
    mlp = {
        name: weights[f"model.layers.1.mlp.{name}_proj.weight"] for name in ("gate", "up", "down")
    }
    for name in ("gate", "up"):
        mlp[name] *= 0.1 / mlp[name].std()
        mlp[name][[USED, CORRELATED, GENERAL]] = 0
        mlp[name][[[USED], [CORRELATED]], animals] = 0.5  # 4 after the norm, so silu(4) * 4 = 15.7
        mlp[name][GENERAL, ids["the"]] = 0.5
    mlp["down"] *= 0.15 / mlp["down"].std()
    mlp["down"][:, [USED, CORRELATED, GENERAL]] = 0
    mlp["down"][TOPIC_DIM, USED] = mlp["down"][PAIR_DIM, GENERAL] = 1 / 15.7
    changed = {f"model.layers.1.mlp.{name}_proj.weight": values for name, values in mlp.items()}
    quiet = {name: values * 0 for name, values in weights.items() if "o_proj" in name}
    quiet["model.layers.0.mlp.down_proj.weight"] = (
        weights["model.layers.0.mlp.down_proj.weight"] * 0
    )
    own = {"model.embed_tokens.weight": embeddings, "lm_head.weight": head}
    return weights | changed | quiet | own


def prompt_row(rng, topic):
    """Return a prompt with three words of its topic in a row, and twice `the a`."""
    parts = [[*rng.choice(WORDS[topic], 3)], ["the", "a"], ["the", "a"]]
    parts += [[word] for word in rng.choice(FILLERS, rng.integers(2, 5))]
    return {"text": " ".join(word for part in rng.permutation(len(parts)) for word in parts[part])}


def planted_model(folder):
    """Make the model in a folder, and load it with its head."""
    shape = {"hidden_size": WIDTH, "intermediate_size": UNITS, "num_key_value_heads": 4}
    make_model("llama", folder / "random", head=True, **shape)
    return load_model(
        str(copy_with_weights(folder / "random", folder / "model", planted)), head=True
    )
