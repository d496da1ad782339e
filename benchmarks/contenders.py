"""Ways to compute the same activations of `minilm`: neuroscope, bare passes, a plain loop."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.options import Dtype

if TYPE_CHECKING:
    import torch

    from neuroscope.extraction.models import Model

MODEL = "minilm"
BATCH = 32
"""Prompts per batch, where the user chooses the batches."""

BUDGET = 2048
"""Tokens per batch of neuroscope; fixed, so that the bare passes run over the same batches."""

Pooled = dict[str, NDArray[np.float32]]
"""Site -> (prompts, neurons), means over the content tokens of each prompt."""


@dataclass(frozen=True)
class Outcome:
    """The result of a contender."""

    seconds: float
    """Seconds of the timed part, without loading the model."""
    pooled: Pooled


Contend = Callable[[list[str]], Outcome]
"""Load a model, warm up, and time a pass over the texts."""


def ours(
    texts: list[str], dtype: Dtype, sites: Sequence[str] = ("resid_post", "mlp_act")
) -> Outcome:
    """Run `neuroscope.extract` at every layer."""
    import neuroscope as ns

    model = ns.load_model(MODEL, device="cpu", dtype=dtype)

    def run(texts: list[str]) -> Pooled:
        activations = ns.extract(model, texts, sites, pool="mean", budget=BUDGET)
        return {str(site): activations[site] for site in activations}

    return timed(run, texts)


def layers_study(texts: list[str], dtype: Dtype) -> Outcome:
    """Run `neuroscope.layers` without probes, from texts to the result."""
    import neuroscope as ns

    model = ns.load_model(MODEL, device="cpu", dtype=dtype)

    def run(texts: list[str]) -> Pooled:
        ns.layers(model, texts, probes=False)
        return {}

    return timed(run, texts)


def bare_passes(texts: list[str], dtype: Dtype) -> Outcome:
    """Run forward passes over the batches of `ours`, tokenised in advance; record nothing."""
    import torch

    import neuroscope as ns

    model = ns.load_model(MODEL, device="cpu", dtype=dtype)

    def run(batches: list[dict[str, Any]]) -> Pooled:
        with torch.inference_mode():
            for inputs in batches:
                model.module(**inputs)
        return {}

    return timed(run, model_inputs(model, texts), warm=1)


def model_inputs(model: "Model", texts: list[str], tile: int | None = None) -> list[dict[str, Any]]:
    """Return the model's inputs for the batches that `neuroscope.extract` forms of the texts.

    Args:
        model: model on the CPU.
        texts: prompts.
        tile: tokens per tile to which batches are padded; by default as in `neuroscope.extract`.
    """
    from neuroscope.extraction.batching import batches, tokenise
    from neuroscope.extraction.budget import TokenBudget
    from neuroscope.prompts import PromptSet

    block = tokenise(model, PromptSet.of(texts).prompts)
    budget = TokenBudget(BUDGET)
    return [
        dict(batch.inputs(model))
        for batch in batches(model, block, token_rule="content", budget=budget, tile=tile)
    ]


def plain_loop(texts: list[str]) -> Outcome:
    """Run the loop that a user would write: float32, batches in file order, hidden states."""
    import torch

    tokenizer, model = load_with_transformers()

    def run(texts: list[str]) -> Pooled:
        rows = []
        for batch in in_batches(texts):
            inputs, content = encode(tokenizer, batch)
            with torch.no_grad():
                states = model(**inputs, output_hidden_states=True).hidden_states[1:]
            means = [masked_mean(state, content) for state in states]
            rows.append({f"resid_post.{layer}": mean for layer, mean in enumerate(means)})
        return concatenated(rows)

    return timed(run, texts)


def hugging_face(texts: list[str]) -> Outcome:
    """Run each prompt alone, without padding; all other values are compared with these."""
    import torch

    tokenizer, model = load_with_transformers()
    acts: list[torch.Tensor] = []
    for layer in model.encoder.layer:
        layer.intermediate.register_forward_hook(lambda module, args, act: acts.append(act))

    def run(texts: list[str]) -> Pooled:
        rows = []
        for text in texts:
            acts.clear()
            inputs, content = encode(tokenizer, [text])
            with torch.no_grad():
                states = model(**inputs, output_hidden_states=True).hidden_states[1:]
            components = {"resid_post": states, "mlp_act": acts}
            rows.append(
                {
                    f"{component}.{layer}": masked_mean(values, content)
                    for component, layers in components.items()
                    for layer, values in enumerate(layers)
                }
            )
        return concatenated(rows)

    return timed(run, texts)


def timed(run: Callable[[Any], Pooled], inputs: list[Any], warm: int = BATCH) -> Outcome:
    """Time a run over the inputs, after a run over the first `warm` of them."""
    run(inputs[:warm])
    start = time.perf_counter()
    pooled = run(inputs)
    return Outcome(time.perf_counter() - start, pooled)


def model_folder() -> str:
    """Return the folder of the model's files."""
    return str(find_checkpoint(MODEL).folder)


def load_with_transformers() -> tuple[Any, Any]:
    """Load tokenizer and model, in float32, as the documentation of transformers does."""
    from transformers import AutoModel, AutoTokenizer

    folder = model_folder()
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def in_batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in batches, in their order."""
    for start in range(0, len(texts), BATCH):
        yield list(texts[start : start + BATCH])


def encode(tokenizer: Any, texts: list[str]) -> tuple[Any, "torch.Tensor"]:
    """Return the model's inputs, and a mask (batch, tokens) that is true at content tokens."""
    inputs = tokenizer(texts, padding=True, return_tensors="pt", return_special_tokens_mask=True)
    content = inputs.pop("special_tokens_mask") == 0  # padding counts as special
    return inputs, content


def masked_mean(states: "torch.Tensor", content: "torch.Tensor") -> "torch.Tensor":
    """Average (batch, tokens, neurons) over the content tokens: (batch, neurons)."""
    weights = content.unsqueeze(2).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def concatenated(rows: "Sequence[dict[str, torch.Tensor]]") -> Pooled:
    """Concatenate the rows of the batches."""
    import torch

    return {site: torch.cat([batch[site] for batch in rows]).numpy() for site in rows[0]}


OWN: dict[str, Contend] = {
    "bare-fp32": partial(bare_passes, dtype="float32"),
    "bare-bf16": partial(bare_passes, dtype="bfloat16"),
    "ours-fp32": partial(ours, dtype="float32"),
    "ours-bf16": partial(ours, dtype="bfloat16"),
    "layers-fp32": partial(layers_study, dtype="float32"),
    "layers-bf16": partial(layers_study, dtype="bfloat16"),
    "plain-loop": plain_loop,
    "hugging-face": hugging_face,
}
