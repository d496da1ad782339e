"""The same activations with other libraries, each used as its documentation suggests."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import (
    Contend,
    Outcome,
    Pooled,
    concatenated,
    encode,
    in_batches,
    masked_mean,
    model_folder,
    timed,
)


def nnsight_traces(texts: list[str]) -> Outcome:
    """Run nnsight: one trace per batch, in which the means are computed and saved."""
    import nnsight
    import torch

    model = nnsight.TransformersModel(model_folder(), task="feature-extraction", dispatch=True)

    def run(texts: list[str]) -> Pooled:
        rows = []
        for batch in in_batches(texts):
            inputs, content = encode(model.tokenizer, batch)
            with torch.no_grad(), model.trace(inputs):
                means = nnsight.save({})
                for index, layer in enumerate(model.encoder.layer):
                    means[f"mlp_act.{index}"] = masked_mean(layer.intermediate.output, content)
                    means[f"resid_post.{index}"] = masked_mean(layer.output, content)
            rows.append(means)
        return concatenated(rows)

    return timed(run, texts)


def transformer_lens_caches(texts: list[str]) -> Outcome:
    """Run TransformerLens: one `run_with_cache` per batch, with a filter on the cached names."""
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(model_folder(), device="cpu")
    names = {
        f"{component}.{layer}": f"blocks.{layer}.{hook}"
        for layer in range(bridge.cfg.n_layers)
        for component, hook in (("mlp_act", "mlp.hook_post"), ("resid_post", "hook_resid_post"))
    }

    def run(texts: list[str]) -> Pooled:
        rows = []
        for batch in in_batches(texts):
            inputs, content = encode(bridge.tokenizer, batch)
            with torch.no_grad():
                _, cache = bridge.run_with_cache(
                    inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    names_filter=list(names.values()),
                    return_type=None,
                )
            rows.append({site: masked_mean(cache[name], content) for site, name in names.items()})
        return concatenated(rows)

    return timed(run, texts)


def neurox_files(texts: list[str], kind: str) -> Outcome:
    """Run NeuroX: one prompt at a time, all words at all layers into one file."""
    from neurox.data.extraction.transformers_extractor import get_model_and_tokenizer
    from neurox.data.loader import load_activations

    model, tokenizer = get_model_and_tokenizer(model_folder())
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w", encoding="utf-8") as null,
        contextlib.redirect_stdout(null),  # NeuroX prints every sentence
    ):
        path = Path(folder) / f"activations.{kind}"
        outcome = timed(_write_with_neurox(model, tokenizer, path), texts)
        words, layers = load_activations(str(path))
    return Outcome(outcome.seconds, _mean_of_words(tokenizer, texts, words, layers))


def _write_with_neurox(model: Any, tokenizer: Any, path: Path) -> Callable[[list[str]], Pooled]:
    from neurox.data.extraction.transformers_extractor import extract_sentence_representations
    from neurox.data.writer import ActivationsWriter

    def run(texts: list[str]) -> Pooled:
        writer = ActivationsWriter.get_writer(str(path))
        for index, text in enumerate(texts):
            states, words = extract_sentence_representations(
                text, model, tokenizer, include_embeddings=False, aggregation="average"
            )
            writer.write_activations(index, words, states)
        writer.close()
        return {}

    return run


def _mean_of_words(
    tokenizer: Any, texts: list[str], words: list[NDArray[Any]], layers: int
) -> Pooled:
    """Return means over tokens, from means over the tokens of each word.

    Args:
        words: (words, layers * neurons) of each text.
    """
    rows = []
    for text, values in zip(texts, words, strict=True):
        tokens = [len(tokenizer.tokenize(word)) for word in text.split(" ")]
        rows.append(np.average(values, axis=0, weights=tokens))
    means = np.stack(rows).reshape(len(texts), layers, -1).astype(np.float32)
    return {f"resid_post.{layer}": means[:, layer] for layer in range(layers)}


PEERS: dict[str, Contend] = {
    "nnsight": nnsight_traces,
    "transformer-lens": transformer_lens_caches,
    "neurox-json": partial(neurox_files, kind="json"),
    "neurox-hdf5": partial(neurox_files, kind="hdf5"),
}
