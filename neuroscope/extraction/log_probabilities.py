"""Log probabilities of tokens at positions of prompts, from a model with its head."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ModelError
from neuroscope.extraction.batching import Batch, batches
from neuroscope.extraction.budget import TokenBudget, usual_budget
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.head import head_at
from neuroscope.extraction.memory import give_back_memory
from neuroscope.extraction.models import Model
from neuroscope.extraction.pair_changes import nonfinite
from neuroscope.extraction.paired import output_budget
from neuroscope.extraction.reading import divided
from neuroscope.extraction.recorder import Recorder
from neuroscope.progress import Progress, silent
from neuroscope.sites import Site
from neuroscope.stats.moments import Doubles
from neuroscope.tokens import TokenBlock

if TYPE_CHECKING:
    import torch

Integers = NDArray[np.integer]

_LOGITS_AT_ONCE = 2**23
_TASK = "score"


@dataclass(frozen=True, eq=False)
class Asked:
    """Tokens whose log probabilities are asked for, (asked,) each, in the order of their prompts.

    In a causal model, the logits at a position predict the next token.
    """

    prompts: Integers
    """Number of the prompt, which never decreases."""
    positions: Integers
    """Position in the prompt at which logits are read."""
    ids: Integers
    """Id of the token."""


def mask_id(tokenizer: Any, checkpoint: Checkpoint) -> int:
    """Return the id of a tokenizer's mask token; raise ModelError if the model has none."""
    id, size = tokenizer.mask_token_id, int(checkpoint.config["vocab_size"])
    if id is None or id >= size:
        fault = "has no mask token" if id is None else f"has no embedding of its mask token, {id}"
        raise ModelError(
            f"masked language model '{checkpoint.name}' {fault}",
            remedy="name its mask token as mask_token in tokenizer_config.json",
        )
    return int(id)


def log_probabilities(
    model: Model,
    block: TokenBlock,
    asked: Asked,
    names: "list[str]",
    progress: Progress = silent,
) -> Doubles:
    """Return the log probability of each token that is asked for, (asked,), in nats.

    Args:
        model: model from `load_model`, with its head.
        block: tokens of the prompts.
        asked: tokens and positions.
        names: id of each prompt, for messages.
        progress: callback that receives how many prompts have been read.

    Raises:
        ModelError: the forward pass fails.
        NonfiniteError: the model computes NaN or infinity.
        ResourceError: there is not enough memory for a single prompt.
    """
    values = np.empty(len(asked.ids))
    bounds = np.searchsorted(asked.prompts, np.arange(len(block) + 1))
    budget = _budget(model, block, asked)
    site, done = Site("logits", model.layer_count - 1), 0
    progress(_TASK, 0, len(block))
    with Recorder(model, [site]) as recorder:

        def run(batch: Batch) -> tuple[NDArray[np.int64], Doubles]:
            spans = [np.arange(bounds[row], bounds[row + 1]) for row in batch.members.tolist()]
            index = np.concatenate(spans)
            rows = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
            return index, _in_batch(model, recorder, batch, rows, asked, index)

        for batch in batches(model, block, token_rule="all", budget=budget):
            for part, (index, logs) in divided(batch, run, budget):
                _check_finite(model, logs, asked.prompts[index], names)
                values[index] = logs
                done += len(part.members)
                progress(_TASK, done, len(block))
            give_back_memory()
    return values


def _budget(model: Model, block: TokenBlock, asked: Asked) -> TokenBudget:
    """Return the token budget of a batch: smaller if the logits of most tokens are needed."""
    if 2 * len(np.unique(asked.prompts)) < len(asked.ids):
        return output_budget([model], "logits")
    return TokenBudget(usual_budget(str(model.device)))


def _in_batch(
    model: Model,
    recorder: Recorder,
    batch: Batch,
    rows: NDArray[np.int64],
    asked: Asked,
    index: NDArray[np.int64],
) -> Doubles:
    """Return the log probabilities of the tokens that are asked for in a batch.

    Args:
        model: model with its head.
        recorder: recorder of the logits.
        batch: batch of prompts.
        rows: (asked in the batch,) row of each token in the batch.
        asked: all tokens.
        index: (asked in the batch,) their numbers among all tokens.
    """
    import torch

    if not len(index):
        return np.empty(0)
    padding = batch.mask.argmax(dim=1).cpu().numpy()  # before the first token of each row
    places = np.stack([rows, padding[rows] + asked.positions[index]])
    distinct, which = np.unique(places, axis=1, return_inverse=True)
    ids = asked.ids[index].astype(np.int64)
    row, column = (torch.from_numpy(each) for each in distinct)
    keep = partial(_log_probabilities, torch.from_numpy(which.ravel()), torch.from_numpy(ids))
    with head_at(model, row, column):
        kept = recorder.run(batch.inputs(model), lambda site: keep)
    logs: Doubles = kept[recorder.sites[0]]
    return logs


def _log_probabilities(
    which: "torch.Tensor", ids: "torch.Tensor", logits: "torch.Tensor"
) -> Doubles:
    """Return the log probability of each token, given (1, positions, vocabulary) logits.

    Args:
        which: (asked,) number of the position of each token.
        ids: (asked,) id of each token.
        logits: logits at the positions.
    """
    import torch

    which, ids = which.to(logits.device), ids.to(logits.device)
    size = max(1, _LOGITS_AT_ONCE // logits.shape[2])
    parts = torch.split(logits[0], size)
    totals = torch.cat([part.float().logsumexp(dim=1) for part in parts])
    logs = logits[0][which, ids].float() - totals[which]
    return logs.cpu().numpy().astype(np.float64)


def _check_finite(model: Model, logs: Doubles, prompts: Integers, names: "list[str]") -> None:
    """Raise NonfiniteError if a log probability is NaN or infinite."""
    finite = np.isfinite(logs)
    if not finite.all():
        raise nonfinite(model, names[int(prompts[int(np.argmin(finite))])])
