"""Ways to read the same activations of `minilm`: this project, bare passes, a plain loop."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.checkpoints import find_checkpoint

if TYPE_CHECKING:
    import torch

    from neuroscope.extraction.models import Model

MODEL = "minilm"
BATCH = 32
"""Prompts in a batch, where a user chooses it."""

BUDGET = 2048
"""Tokens in a batch of this project, so that the bare passes run over the same ones."""

Pooled = dict[str, NDArray[np.float32]]
"""Site -> (prompts, neurons): means over each prompt's content tokens."""


@dataclass(frozen=True)
class Outcome:
    """What a contender took, in seconds, and what it found; loading is not part of it."""

    seconds: float
    pooled: Pooled


Contend = Callable[[list[str]], Outcome]
"""Loads a model, warms up, and is timed over the texts."""


def ours(texts: list[str], dtype: str, sites: Sequence[str] = ("resid_post", "mlp_act")) -> Outcome:
    """`neuroscope.extract` at every layer."""
    import neuroscope as ns

    model = ns.load_model(MODEL, device="cpu", dtype=dtype)

    def run(texts: list[str]) -> Pooled:
        found = ns.extract(model, texts, sites, pool="mean", budget=BUDGET)
        return {str(site): found[site] for site in found}

    return timed(run, texts)


def bare_passes(texts: list[str], dtype: str) -> Outcome:
    """Forward passes over the batches that `ours` makes, tokenised beforehand; nothing is kept."""
    import torch

    import neuroscope as ns

    model = ns.load_model(MODEL, device="cpu", dtype=dtype)

    def run(batches: list[dict[str, Any]]) -> Pooled:
        with torch.inference_mode():
            for inputs in batches:
                model.module(**inputs)
        return {}

    return timed(run, model_inputs(model, texts), warm=1)


def model_inputs(model: "Model", texts: list[str]) -> list[dict[str, Any]]:
    """The batches that `neuroscope.extract` makes of the texts, as the model takes them."""
    from neuroscope.extraction.batching import batches, tokenise
    from neuroscope.extraction.budget import TokenBudget
    from neuroscope.prompts import PromptSet

    block = tokenise(model, PromptSet.of(texts).prompts)
    found = batches(model, block, token_rule="content", budget=TokenBudget(BUDGET))
    return [dict(batch.inputs(model)) for batch in found]


def plain_loop(texts: list[str]) -> Outcome:
    """What a user would write: float32, batches in the file's order, all hidden states."""
    import torch

    tokenizer, model = load_with_transformers()

    def run(texts: list[str]) -> Pooled:
        rows = []
        for batch in in_batches(texts):
            inputs, content = encode(tokenizer, batch)
            with torch.no_grad():
                states = model(**inputs, output_hidden_states=True).hidden_states[1:]
            rows.append(
                {f"resid_post.{at}": masked_mean(one, content) for at, one in enumerate(states)}
            )
        return joined(rows)

    return timed(run, texts)


def hugging_face(texts: list[str]) -> Outcome:
    """The values that all others are compared with: each prompt alone, without padding."""
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
            kinds = {"resid_post": states, "mlp_act": acts}
            rows.append(
                {
                    f"{kind}.{at}": masked_mean(one, content)
                    for kind, layers in kinds.items()
                    for at, one in enumerate(layers)
                }
            )
        return joined(rows)

    return timed(run, texts)


def timed(run: Callable[[Any], Pooled], given: list[Any], warm: int = BATCH) -> Outcome:
    """Runs over the first `warm` of what is given, then, timed, over all of it."""
    run(given[:warm])
    start = time.perf_counter()
    pooled = run(given)
    return Outcome(time.perf_counter() - start, pooled)


def model_folder() -> str:
    return str(find_checkpoint(MODEL).folder)


def load_with_transformers() -> tuple[Any, Any]:
    """Tokenizer and model in float32, as transformers' documentation loads them."""
    from transformers import AutoModel, AutoTokenizer

    folder = model_folder()
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def in_batches(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), BATCH):
        yield list(texts[start : start + BATCH])


def encode(tokenizer: Any, texts: list[str]) -> tuple[Any, "torch.Tensor"]:
    """What the model takes, and (batch, tokens) true at content tokens."""
    inputs = tokenizer(texts, padding=True, return_tensors="pt", return_special_tokens_mask=True)
    content = inputs.pop("special_tokens_mask") == 0  # padding counts as special
    return inputs, content


def masked_mean(states: "torch.Tensor", content: "torch.Tensor") -> "torch.Tensor":
    """(batch, tokens, neurons) -> (batch, neurons)."""
    weights = content.unsqueeze(2).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def joined(rows: "Sequence[dict[str, torch.Tensor]]") -> Pooled:
    """The batches' rows below each other."""
    import torch

    return {site: torch.cat([one[site] for one in rows]).numpy() for site in rows[0]}


OWN: dict[str, Contend] = {
    "bare-fp32": partial(bare_passes, dtype="float32"),
    "bare-bf16": partial(bare_passes, dtype="bfloat16"),
    "ours-fp32": partial(ours, dtype="float32"),
    "ours-bf16": partial(ours, dtype="bfloat16"),
    "plain-loop": plain_loop,
    "hugging-face": hugging_face,
}
