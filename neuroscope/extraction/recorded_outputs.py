"""Outputs of a base that are kept in a file, and a candidate's compared with them."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.activations import Floats
from neuroscope.extraction.batching import Batch
from neuroscope.extraction.behaviour import (
    TokenPredictions,
    compare_representations,
    expected_counts,
)
from neuroscope.extraction.extract import record
from neuroscope.extraction.hardware import in_float64
from neuroscope.extraction.models import Model
from neuroscope.extraction.pair_changes import Behaviour, Passes, nonfinite, positions_of
from neuroscope.extraction.paired import output_budget
from neuroscope.extraction.recorder import Keep
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site
from neuroscope.stats.moments import Doubles
from neuroscope.tokens import TokenBlock

if TYPE_CHECKING:
    import torch

KEPT_TOKENS = 64
"""Number of the most probable tokens whose probabilities are kept at each position."""
_LEAST = 1e-12  # probability of all other tokens together, below which it is rounded up


@dataclass(frozen=True, eq=False)
class RecordedOutputs:
    """Outputs of a base at the positions at which a candidate's are compared with them.

    Positions are in the order of the prompts and their tokens.
    """

    prompts: NDArray[np.int64]
    """(positions,) number of the prompt of each position."""
    positions: NDArray[np.int64]
    """(positions,) position of the token in its prompt."""
    representations: Floats | None = None
    """(positions, neurons) final representations; None with a language-model head."""
    tokens: NDArray[np.int64] | None = None
    """(positions, kept) ids of the most probable tokens, the first one first; None without one."""
    logs: Floats | None = None
    """(positions, kept) log probabilities of these tokens, in nats."""
    actual: Floats | None = None
    """(positions,) log probabilities of the actual tokens."""
    expected: Doubles | None = None
    """(groups, vocabulary) how often the base expects each token."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that there are, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in values.items() if array is not None}


def record_outputs(
    model: Model, block: TokenBlock, prompts: PromptSet, groups: NDArray[np.int64]
) -> RecordedOutputs:
    """Run a base over prompts, and return what is kept of its outputs.

    Args:
        model: model, with its language-model head if it has one.
        block: tokens of the prompts.
        prompts: the prompts.
        groups: (prompts,) number of the group of each prompt, for which expected tokens are
            counted.

    Raises:
        NonfiniteError: the model computes NaN or infinity.
    """
    count = int(groups.max()) + 1

    def keep(outputs: "torch.Tensor", actual: "torch.Tensor", owners: Any) -> dict[str, Any]:
        if not model.has_head:
            return {"representations": outputs.float().cpu().numpy()}
        logs = outputs.float().log_softmax(dim=1)
        top = logs.topk(min(KEPT_TOKENS, logs.shape[1]), dim=1)
        return {
            "tokens": top.indices.cpu().numpy(),
            "logs": top.values.cpu().numpy(),
            "actual": logs.gather(1, actual.unsqueeze(1)).squeeze(1).cpu().numpy(),
            "expected": expected_counts(outputs, groups[owners], count),
        }

    return RecordedOutputs(**_run(model, block, prompts, keep))


def fits(base: RecordedOutputs, candidate: Model) -> bool:
    """Return whether a candidate's outputs can be compared with those of a base."""
    if base.expected is not None:
        vocabulary = candidate.checkpoint.neurons("logits")
        return candidate.has_head and vocabulary >= int(base.expected.shape[1])
    assert base.representations is not None
    return candidate.checkpoint.neurons("final") == int(base.representations.shape[1])


def compare_outputs(
    base: RecordedOutputs,
    candidate: Model,
    block: TokenBlock,
    prompts: PromptSet,
    groups: NDArray[np.int64],
) -> Passes:
    """Run a candidate over the prompts, and compare its outputs with those of a base.

    The KL divergence is that between the distributions over the tokens that are kept and all others
    taken together. It is at most the divergence over all tokens.

    Args:
        base: outputs of the base.
        candidate: model, with its language-model head if the base has one, that reads the same
            tokens.
        block, prompts, groups: as in `record_outputs`.

    Raises:
        NonfiniteError: the candidate computes NaN or infinity.
    """
    starts = np.searchsorted(base.prompts, np.arange(len(block) + 1))
    count = int(groups.max()) + 1

    def compare(outputs: "torch.Tensor", actual: "torch.Tensor", owners: Any) -> dict[str, Any]:
        members = dict.fromkeys(owners.tolist())  # a batch's prompts, in the order of its rows
        spans = [np.arange(starts[member], starts[member + 1]) for member in members]
        rows = np.concatenate([np.empty(0, dtype=np.int64), *spans])
        return _compared(base, rows, outputs, actual) | (
            {"expected": expected_counts(outputs, groups[owners], count)}
            if candidate.has_head
            else {}
        )

    values = _run(candidate, block, prompts, compare)
    owners, order, expected = (
        values.pop(key, None) for key in ("prompts", "positions", "expected")
    )
    predictions = TokenPredictions(**values) if candidate.has_head else None
    divergence = values["kl"] if predictions else values["divergence"]
    behaviour = Behaviour(owners, order, divergence, predictions)
    both = None if base.expected is None else (base.expected, expected[:, : base.expected.shape[1]])
    return Passes(block, {}, behaviour, both, bounded=predictions is not None)


def _compared(
    base: RecordedOutputs, rows: Any, outputs: "torch.Tensor", actual: "torch.Tensor"
) -> dict[str, Any]:
    """Return the change of the outputs at some positions of the base."""
    import torch

    if base.tokens is None or base.logs is None or base.actual is None:
        assert base.representations is not None
        own = torch.from_numpy(base.representations[rows]).to(outputs.device)
        return {"divergence": compare_representations(own, outputs)}
    logs = in_float64(outputs).log_softmax(dim=1)
    tokens = torch.from_numpy(base.tokens[rows]).to(logs.device)
    own_logs = torch.from_numpy(base.logs[rows]).double().to(logs.device)
    kept = own_logs, logs.gather(1, tokens)
    p, q = ((1 - log.exp().sum(dim=1)).clamp(min=_LEAST) for log in kept)
    kl = (kept[0].exp() * (kept[0] - kept[1])).sum(dim=1) + p * (p / q).log()
    return {
        "kl": kl.clamp(min=0).cpu().numpy(),
        "same_top": (tokens[:, 0] == logs.argmax(dim=1)).cpu().numpy(),
        "base": base.actual[rows].astype(np.float64),
        "candidate": logs.gather(1, actual.to(logs.device).unsqueeze(1)).squeeze(1).cpu().numpy(),
    }


def _run(
    model: Model,
    block: TokenBlock,
    prompts: PromptSet,
    reduce: "Callable[[torch.Tensor, torch.Tensor, Any], dict[str, Any]]",
) -> dict[str, Any]:
    """Run a model, reduce its outputs batch by batch, and join the results.

    Args:
        model: model that is run.
        block: tokens of the prompts.
        prompts: the prompts.
        reduce: function of the (positions, outputs) outputs of a batch, the ids of the actual
            tokens, and the numbers of the prompts of the positions.
    """
    output = "logits" if model.has_head else "final"
    rider = _Outputs(model, prompts, reduce)
    passes = record(
        model,
        block,
        [Site(output, model.layer_count - 1)],
        pool=None,
        token_rule="content",
        budget=output_budget([model], output),
        riders=[rider],
    )
    for _ in passes:
        pass
    parts = rider.parts
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    expected = joined.pop("expected", None)
    order = np.lexsort((joined["positions"], joined["prompts"]))
    ordered: dict[str, Any] = {name: values[order] for name, values in joined.items()}
    if expected is not None:
        ordered["expected"] = sum(part["expected"] for part in parts)
    return ordered


class _Outputs:
    """Rider that reduces the outputs of each batch at the positions that are compared."""

    def __init__(self, model: Model, prompts: PromptSet, reduce: Callable[..., dict[str, Any]]):
        self.model = model
        self.prompts = prompts
        self.reduction = reduce
        self.parts: list[dict[str, Any]] = []

    def reduce(self, site: Site, batch: Batch) -> Keep:
        """Return the function that reduces a batch's outputs."""
        rows, actual, owners, order = positions_of(self.model, batch, logits=self.model.has_head)

        def reduce(outputs: "torch.Tensor") -> dict[str, Any]:
            import torch

            ids = torch.from_numpy(actual).to(outputs.device)
            kept = outputs[rows.to(outputs.device)]
            finite = kept.isfinite().all(dim=1)
            if not finite.all():
                raise nonfinite(self.model, self.prompts.ids[owners[int((~finite).nonzero()[0])]])
            return {
                "prompts": owners,
                "positions": order,
                **self.reduction(kept, ids, owners),
            }

        return reduce

    def add(self, site: Site, batch: Batch, reduced: dict[str, Any]) -> None:
        """Keep the results of a batch."""
        self.parts.append(reduced)
