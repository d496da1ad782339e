"""Changes of the outputs of a model, token by token: predictions, or final representations."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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
    """Probability of the actual token in the base."""
    candidate: NDArray[np.float64]
    """Probability of the actual token in the candidate."""
    risen: NDArray[np.int32]
    """(positions, k) tokens whose logits rose most, in descending order; -1 if none rose."""
    fallen: NDArray[np.int32]
    """(positions, k) tokens whose logits fell most, in descending order; -1 if none fell."""

    @classmethod
    def joined(cls, parts: "Iterable[TokenPredictions]") -> "TokenPredictions":
        """Return the predictions of several batches, one after another."""
        rows = [vars(part) for part in parts]
        return cls(**{name: np.concatenate([row[name] for row in rows]) for name in rows[0]})

    def ordered(self, order: NDArray[np.intp]) -> "TokenPredictions":
        """Return the predictions in another order of the positions."""
        return TokenPredictions(**{name: values[order] for name, values in vars(self).items()})


def compare_predictions(
    base: "torch.Tensor", candidate: "torch.Tensor", actual: "torch.Tensor", *, most: int = 20
) -> TokenPredictions:
    """Return how the predictions of two models differ at some positions.

    The logits of a position are first shifted by their mean difference, as a constant that is added
    to all of them changes no probability.

    Args:
        base: (positions, vocabulary) logits of the base, one or more positions.
        candidate: logits of the candidate, of the same shape.
        actual: (positions,) ids of the tokens that are predicted.
        most: number of tokens whose logits changed most to list, k.
    """
    rows = max(1, _LOGITS_AT_ONCE // base.shape[1])
    parts = (slice(start, start + rows) for start in range(0, len(base), rows))
    return TokenPredictions.joined(
        _compare(base[part].float(), candidate[part].float().to(base.device), actual[part], most)
        for part in parts
    )


def _compare(
    base: "torch.Tensor", candidate: "torch.Tensor", actual: "torch.Tensor", most: int
) -> TokenPredictions:
    """Compare as `compare_predictions` does, all positions at once."""
    log_base, log_candidate = base.log_softmax(dim=1), candidate.log_softmax(dim=1)
    column = actual.to(base.device).unsqueeze(1)
    risen, fallen = changed_tokens(base, candidate, most)
    return TokenPredictions(
        kl=_divergence(log_base, log_candidate).cpu().numpy(),
        same_top=(base.argmax(dim=1) == candidate.argmax(dim=1)).cpu().numpy(),
        base=log_base.gather(1, column).squeeze(1).double().exp().cpu().numpy(),
        candidate=log_candidate.gather(1, column).squeeze(1).double().exp().cpu().numpy(),
        risen=risen,
        fallen=fallen,
    )


def _divergence(log_base: "torch.Tensor", log_candidate: "torch.Tensor") -> "torch.Tensor":
    """Return the divergence of each row in float64; never negative, and exactly 0 for equal rows.

    Each term p log(p / q) is written as q - p + p log(p / q), as the terms that are added sum to 0.
    With d = log(q / p) that is p (exp(d) - 1 - d), which keeps the digits where d is small.
    """
    import torch

    log_base, change = log_base.double(), (log_candidate.double() - log_base.double())
    base = log_base.exp()
    near = base * (change.clamp(-1, 1).expm1() - change)
    far = log_candidate.double().exp() - base - base * change
    return torch.where(change.abs() < 1, near, far).sum(dim=1)


def changed_tokens(
    base: "torch.Tensor", candidate: "torch.Tensor", most: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the tokens whose logits rose and fell most, (positions, k) each; -1 where none did.

    Args:
        base: (positions, vocabulary) logits of the base.
        candidate: logits of the candidate.
        most: number of tokens to list; no more than the vocabulary has are listed.
    """
    change = candidate - base
    change = change - change.mean(dim=1, keepdim=True)
    changed = (candidate != base).any(dim=1, keepdim=True)

    def extreme(sign: int) -> NDArray[np.int32]:
        values, ids = (sign * change).topk(min(most, change.shape[1]), dim=1)
        ids = ids.masked_fill(~(changed & (values > 0)), -1)
        return ids.int().cpu().numpy()

    return extreme(1), extreme(-1)


def compare_representations(base: "torch.Tensor", candidate: "torch.Tensor") -> NDArray[np.float64]:
    """Return 1 - cosine of two final representations per position, (positions,).

    Args:
        base: (positions, neurons) representations in the base.
        candidate: representations in the candidate, of the same shape.
    """
    import torch

    units = [torch.nn.functional.normalize(x.double(), dim=1) for x in (base, candidate)]
    # |u - v|^2 / 2, which keeps the digits of small differences
    return (units[0] - units[1].to(base.device)).square().sum(dim=1).div(2).cpu().numpy()


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
    for start in range(0, len(base), rows):
        part = slice(start, start + rows)
        logs = [x[part].float().to(base.device).log_softmax(dim=1) for x in (base, candidate)]
        yield _divergence(*logs).cpu().numpy()
