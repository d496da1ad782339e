"""A few steps of training, with AdamW, for models with and without a language-model head."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.validation.changes import FILE, copy_model

if TYPE_CHECKING:
    import torch

BATCH = 32
"""Texts per step."""
_TEMPERATURE = 0.05  # of the contrastive loss
_LONGEST = 128  # tokens of a text

Loss = Callable[[Any, Any], "torch.Tensor"]
"""Loss of a model on the tokenizer's output for a batch of texts."""


def fine_tune(
    source: Path,
    folder: Path,
    texts: Sequence[str],
    steps: Sequence[int],
    *,
    causal: bool,
    rate: float,
    decay: bool = False,
    seed: int = 0,
) -> Iterator[tuple[int, Path]]:
    """Train a model further, and yield a copy of it after some numbers of steps.

    Args:
        source: folder of the model.
        folder: folder in which one folder per copy is created.
        texts: texts, from which each batch is drawn.
        steps: ascending numbers of steps.
        causal: whether to train a language-model head to predict the next token. If not, the mean
            of the last layer is trained as a representation (`contrastive_loss`).
        rate: learning rate, after a warm-up over the first tenth of the steps.
        decay: whether it then falls to 0 along a half cosine.
        seed: seed of the batches and of dropout.
    """
    import torch

    tokenizer, model = _load(source, causal=causal)
    loss_of = next_token_loss if causal else contrastive_loss
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model.train()
    for step in range(1, steps[-1] + 1):
        optimizer.param_groups[0]["lr"] = rate * _share(step, steps[-1], decay=decay)
        inputs = tokenizer(
            rng.choices(texts, k=BATCH),
            padding=True,
            truncation=True,
            max_length=_LONGEST,
            return_tensors="pt",
        )
        optimizer.zero_grad()
        loss_of(model, inputs).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step in steps:
            yield step, save(model, source, folder / f"step-{step}")


def trained(source: Path, folder: Path, texts: Sequence[str], steps: int, **options: Any) -> Path:
    """Return the folder of a causal model that was trained further, with a rate that falls to 0.

    Options are those of `fine_tune`.
    """
    ((_, result),) = fine_tune(source, folder, texts, [steps], causal=True, decay=True, **options)
    return result


def next_token_loss(model: Any, inputs: Any) -> "torch.Tensor":
    """Return the mean negative log probability of the next tokens, in nats."""
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    mask = inputs["attention_mask"]
    loss: torch.Tensor = model(inputs["input_ids"], attention_mask=mask, labels=labels).loss
    return loss


def contrastive_loss(model: Any, inputs: Any) -> "torch.Tensor":
    """Return the loss of finding a text's other representation, under other dropout, in the batch.

    It is that of SimCSE (Gao et al. 2021, arXiv:2104.08821), with means over tokens.
    """
    import torch

    one, other = _representations(model, inputs), _representations(model, inputs)
    return torch.nn.functional.cross_entropy(one @ other.T / _TEMPERATURE, torch.arange(len(one)))


def save(model: Any, source: Path, folder: Path) -> Path:
    """Save a model as a copy of the files that it was loaded from, in float32."""
    from safetensors.torch import load_file, save_file

    copy_model(source, folder)
    weights, state = load_file(source / FILE), model.state_dict()
    values = {name: state.get(name, tensor).detach().clone() for name, tensor in weights.items()}
    (folder / FILE).unlink()
    save_file(values, folder / FILE, metadata={"format": "pt"})
    return folder


def _share(step: int, steps: int, *, decay: bool) -> float:
    """Return the share of the learning rate that applies to a step, counted from 1."""
    warm_up = max(1, steps // 10)
    if step <= warm_up or not decay:
        return min(1, step / warm_up)
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / (steps - warm_up))


def _load(source: Path, *, causal: bool) -> tuple[Any, Any]:
    """Return the tokenizer and the model, in float32."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    auto = AutoModelForCausalLM if causal else AutoModel
    return tokenizer, auto.from_pretrained(source, dtype=torch.float32)


def _representations(model: Any, inputs: Any) -> "torch.Tensor":
    """Return the mean of the last layer over the tokens of each text, with norm 1."""
    import torch

    mask = inputs["attention_mask"].unsqueeze(2)
    means = (model(**inputs).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
    return torch.nn.functional.normalize(means, dim=1)
