"""The language-model head: whether a model's files have one, and logits at some positions only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from neuroscope.errors import HeadlessError
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.fit import body_path, build_empty
from neuroscope.extraction.models import Model, loading
from neuroscope.extraction.weights import WeightFiles

if TYPE_CHECKING:
    import torch


def check_head(checkpoint: Checkpoint) -> None:
    """Raise HeadlessError if the files of a model have no language-model head.

    Only the names of the weights are read. Weights that the head shares with the embeddings need
    not be in the files.

    Raises:
        HeadlessError: there is no head.
        ModelError: the files cannot be read.
    """
    files = WeightFiles(checkpoint)
    with loading(checkpoint.name):
        module = build_empty(checkpoint, "float32", "eager", head=True)
    tied: dict[str, str] = module.all_tied_weights_keys
    body, shared = body_path(module), {*tied, *tied.values()}
    own = {name for name in module.state_dict() if not name.startswith(body)} - shared
    if own and not own & {*files.stored, *files.outside}:
        raise headless(checkpoint.name)


def headless(model: str) -> HeadlessError:
    """Return the error about a model, given its name, whose files lack the head that is needed."""
    return HeadlessError(
        f"model '{model}' has no language-model head",
        remedy="use a model that was published with its head, such as bert-base-uncased or gpt2",
    )


@contextmanager
def head_at(model: Model, rows: "torch.Tensor", columns: "torch.Tensor") -> Iterator[None]:
    """Compute logits only at some positions in every pass within a `with` block.

    The head is often the most expensive layer of a small model. Use it within a recorder, which
    holds the model's lock; the logits are then (1, positions, vocabulary).

    Args:
        model: model from `load_model`, with its head.
        rows: (positions,) row of each position in the batch.
        columns: (positions,) column of each position.
    """

    def after(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        states = output[0]
        chosen = states[rows.to(states.device), columns.to(states.device)].unsqueeze(0)
        if isinstance(output, tuple):
            return (chosen, *output[1:])
        output.last_hidden_state = chosen
        return output

    handle = model.body.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
