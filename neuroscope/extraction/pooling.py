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

    if pool == "mean":
        weights = (kept.float() / kept.sum(dim=1, keepdim=True)).unsqueeze(1)
        return lambda x: _weighted_sum(weights.to(x.device), x)
    if pool == "max":
        hidden = ~kept.unsqueeze(2)
        return lambda x: x.masked_fill(hidden.to(x.device), -torch.inf).amax(dim=1).float()
    if pool == "none":
        return lambda x: x[kept.to(x.device)].float().cpu()
    rows = torch.arange(len(kept), device=kept.device)
    at = kept.int().argmax(dim=1)
    if pool == "last":
        at = kept.shape[1] - 1 - kept.flip(1).int().argmax(dim=1)
    return lambda x: x[rows.to(x.device), at.to(x.device)].float()


def _weighted_sum(weights: "torch.Tensor", x: "torch.Tensor") -> "torch.Tensor":
    """(batch, 1, tokens) @ (batch, tokens, neurons) -> (batch, neurons), summed in float32."""
    import torch

    if x.dtype == torch.float32 or x.device.type != "cpu":
        return (weights @ x.float()).squeeze(1)
    spans = (slice(at, at + _ROWS_AT_ONCE) for at in range(0, len(x), _ROWS_AT_ONCE))
    return torch.cat([weights[span] @ x[span].float() for span in spans]).squeeze(1)
