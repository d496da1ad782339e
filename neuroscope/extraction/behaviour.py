"""Changes of the outputs of a model, token by token: predictions, or final representations."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.hardware import in_float64

if TYPE_CHECKING:
    import torch

_LOGITS_AT_ONCE = 2**23
"""Logits that are compared at a time: 32 MB in float32, and 64 MB in float64."""


@dataclass(frozen=True, eq=False)
class TokenPredictions:
    """Change of a language model's predictions at some positions, (positions,) each.

    The actual token is the next one in a causal model, and the one at the position in a masked one.
    """

    kl: NDArray[np.float64]
    """Kullback-Leibler divergence from the base's distribution to the candidate's, in nats."""
    same_top: NDArray[np.bool_]
    """Whether both models have the same most probable token."""
    base: NDArray[np.float64]
    """Log probability of the actual token in the base, in nats."""
    candidate: NDArray[np.float64]
    """Log probability of the actual token in the candidate."""

    @classmethod
    def joined(cls, parts: "Iterable[TokenPredictions]") -> "TokenPredictions":
        """Return the predictions of several batches, one after another."""
        rows = [vars(part) for part in parts]
        return cls(**{name: np.concatenate([row[name] for row in rows]) for name in rows[0]})

    def ordered(self, order: NDArray[np.intp]) -> "TokenPredictions":
        """Return the predictions in another order of the positions."""
        return TokenPredictions(**{name: values[order] for name, values in vars(self).items()})


def compare_predictions(
    base: "torch.Tensor", candidate: "torch.Tensor", actual: "torch.Tensor"
) -> TokenPredictions:
    """Return how the predictions of two models differ at some positions.

    Args:
        base: (positions, vocabulary) logits of the base.
        candidate: logits of the candidate, of the same shape.
        actual: (positions,) ids of the tokens that are predicted.
    """
    rows = max(1, _LOGITS_AT_ONCE // base.shape[1])
    parts = (slice(start, start + rows) for start in _starts(len(base), rows))
    return TokenPredictions.joined(
        _compare(base[part].float(), candidate[part].float().to(base.device), actual[part])
        for part in parts
    )


def _compare(
    base: "torch.Tensor", candidate: "torch.Tensor", actual: "torch.Tensor"
) -> TokenPredictions:
    """Compare as `compare_predictions` does, all positions at once."""
    log_base, log_candidate = base.log_softmax(dim=1), candidate.log_softmax(dim=1)
    column = actual.to(base.device).unsqueeze(1)
    return TokenPredictions(
        kl=_divergence(log_base, log_candidate).cpu().numpy(),
        same_top=(base.argmax(dim=1) == candidate.argmax(dim=1)).cpu().numpy(),
        base=in_float64(log_base.gather(1, column).squeeze(1)).cpu().numpy(),
        candidate=in_float64(log_candidate.gather(1, column).squeeze(1)).cpu().numpy(),
    )


def expected_counts(
    logits: "torch.Tensor", groups: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """Return how often a model expects each token, (groups, vocabulary).

    The expected count of a token is the sum of its probabilities over the positions of a group.

    Args:
        logits: (positions, vocabulary) logits.
        groups: (positions,) number of each position's group.
        count: number of groups.
    """
    import torch

    rows = max(1, _LOGITS_AT_ONCE // logits.shape[1])
    counts = in_float64(torch.zeros(count, logits.shape[1], device=logits.device))
    for start in range(0, len(logits), rows):
        part = slice(start, start + rows)
        index = torch.from_numpy(groups[part]).to(counts.device)
        counts.index_add_(0, index, in_float64(logits[part].float().softmax(dim=1)))
    expected: NDArray[np.float64] = counts.cpu().numpy()
    return expected


def _divergence(log_base: "torch.Tensor", log_candidate: "torch.Tensor") -> "torch.Tensor":
    """Return the divergence of each row in float64; never negative, and exactly 0 for equal rows.

    Each term p log(p / q) is written as q - p + p log(p / q), as the terms that are added sum to 0.
    With d = log(q / p) that is p (exp(d) - 1 - d), which keeps the digits where d is small.
    """
    import torch

    log_base, log_candidate = in_float64(log_base), in_float64(log_candidate)
    base, change = log_base.exp(), log_candidate - log_base
    near = base * (change.clamp(-1, 1).expm1() - change)
    far = log_candidate.exp() - base - base * change
    return torch.where(change.abs() < 1, near, far).sum(dim=1)


def compare_representations(base: "torch.Tensor", candidate: "torch.Tensor") -> NDArray[np.float64]:
    """Return 1 - cosine of two final representations per position, (positions,).

    Args:
        base: (positions, neurons) representations in the base.
        candidate: representations in the candidate, of the same shape.
    """
    import torch

    units = [torch.nn.functional.normalize(in_float64(x), dim=1) for x in (base, candidate)]
    # |u - v|^2 / 2, which keeps the digits of small differences
    return (units[0] - units[1].to(units[0].device)).square().sum(dim=1).div(2).cpu().numpy()


def token_divergence(
    base: "torch.Tensor", candidate: "torch.Tensor", *, logits: bool
) -> NDArray[np.float64]:
    """Return the divergence per position: of predictions, or of final representations.

    Args:
        base: (positions, outputs) logits or representations of the base.
        candidate: outputs of the candidate, of the same shape.
        logits: whether the outputs are logits.
    """
    if not logits:
        return compare_representations(base, candidate)
    rows = max(1, _LOGITS_AT_ONCE // base.shape[1])
    return np.concatenate([part for part in _divergences(base, candidate, rows)])


def _divergences(
    base: "torch.Tensor", candidate: "torch.Tensor", rows: int
) -> Iterator[NDArray[np.float64]]:
    """Yield the divergences of some positions at a time."""
    for start in _starts(len(base), rows):
        part = slice(start, start + rows)
        logs = [x[part].float().to(base.device).log_softmax(dim=1) for x in (base, candidate)]
        yield _divergence(*logs).cpu().numpy()


def _starts(count: int, rows: int) -> range:
    """Return where parts of some rows start; there is one part, which is empty, of no rows."""
    return range(0, max(count, 1), rows)
