"""What is kept of a layer's tensor, computed inside the hook, where the tensor is."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Keep = Callable[[torch.Tensor], torch.Tensor]

_ROWS_AT_ONCE = 8  # widened to float32 together: what they take stays in the processor's cache


def pooling(pool: str, kept: "torch.Tensor") -> "Keep":
    """Reduces a (batch, tokens, neurons) tensor to float32.

    Args:
        pool: `mean`, `max`, `first` or `last`, which give (batch, neurons); `none` gives
            (kept tokens, neurons), in order, moved to main memory at once.
        kept: (batch, tokens), true at the tokens that count, one or more a row.
    """
    import torch

    hidden = ~kept.unsqueeze(2)
    if pool == "mean":
        weights = (kept.float() / kept.sum(dim=1, keepdim=True)).unsqueeze(1)
        return lambda x: _mean(weights.to(x.device), hidden.to(x.device), x)
    if pool == "max":
        return lambda x: x.masked_fill(hidden.to(x.device), -torch.inf).amax(dim=1).float()
    if pool == "none":
        return lambda x: x[kept.to(x.device)].float().cpu()
    rows = torch.arange(len(kept), device=kept.device)
    at = kept.int().argmax(dim=1)
    if pool == "last":
        at = kept.shape[1] - 1 - kept.flip(1).int().argmax(dim=1)
    return lambda x: x[rows.to(x.device), at.to(x.device)].float()


def _mean(weights: "torch.Tensor", hidden: "torch.Tensor", x: "torch.Tensor") -> "torch.Tensor":
    """Weighted sum of (batch, tokens, neurons), whatever the tokens that do not count hold.

    Args:
        weights: (batch, 1, tokens), 0 at these.
        hidden: (batch, tokens, 1), true at them.
    """
    if x.device.type != "cpu":  # it would have to wait for a look at the values
        return (weights @ x.float().masked_fill(hidden, 0)).squeeze(1)
    found = _weighted_sum(weights, x)
    if found.sum().isfinite():
        return found
    return _weighted_sum(weights, x.masked_fill(hidden, 0))  # 0 times infinity is not 0


def _weighted_sum(weights: "torch.Tensor", x: "torch.Tensor") -> "torch.Tensor":
    """(batch, 1, tokens) @ (batch, tokens, neurons) -> (batch, neurons), summed in float32."""
    import torch

    if x.dtype == torch.float32:
        return (weights @ x).squeeze(1)
    spans = (slice(at, at + _ROWS_AT_ONCE) for at in range(0, len(x), _ROWS_AT_ONCE))
    return torch.cat([weights[span] @ x[span].float() for span in spans]).squeeze(1)
