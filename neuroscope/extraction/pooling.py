"""Pooling of the tokens of each prompt into one row, inside the hook."""

from typing import TYPE_CHECKING

from neuroscope.extraction.recorder import Keep
from neuroscope.options import Pool

if TYPE_CHECKING:
    import torch

_NUMBERS_AT_ONCE = 2**19
"""Numbers converted to float32 at a time: 2 MB, which stay in the processor's cache."""


def pooling(pool: Pool, kept: "torch.Tensor") -> Keep:
    """Return a function that pools a (batch, tokens, neurons) tensor, with results in float32.

    Args:
        pool: way to pool: `mean`, `max`, `first` or `last` give (batch, neurons); `none` gives
            (counted tokens, neurons), in order, which are copied to main memory immediately.
        kept: (batch, tokens) flags, true at the tokens that count, one or more per row.
    """
    import torch

    hidden = ~kept.unsqueeze(2)
    if pool == "mean":
        weights = (kept.float() / kept.sum(dim=1, keepdim=True)).unsqueeze(1)
        buffer = torch.empty(_NUMBERS_AT_ONCE)
        return lambda x: _mean(weights.to(x.device), hidden.to(x.device), x, buffer)
    if pool == "max":
        return lambda x: x.masked_fill(hidden.to(x.device), -torch.inf).amax(dim=1).float()
    if pool == "none":
        return lambda x: x[kept.to(x.device)].float().cpu()
    rows = torch.arange(len(kept), device=kept.device)
    columns = kept.int().argmax(dim=1)
    if pool == "last":
        columns = kept.shape[1] - 1 - kept.flip(1).int().argmax(dim=1)
    return lambda x: x[rows.to(x.device), columns.to(x.device)].float()


def _mean(
    weights: "torch.Tensor", hidden: "torch.Tensor", x: "torch.Tensor", buffer: "torch.Tensor"
) -> "torch.Tensor":
    """Return the weighted sum of activations over the tokens, (batch, neurons).

    Tokens that do not count may have any value, NaN and infinity included.

    Args:
        weights: (batch, 1, tokens) weights, 0 at tokens that do not count.
        hidden: (batch, tokens, 1) flags, true at tokens that do not count.
        x: (batch, tokens, neurons) activations.
        buffer: float32 tensor of any shape, which is overwritten.
    """
    if x.device.type != "cpu":  # a check of the values would stall the device
        return (weights @ x.float().masked_fill(hidden, 0)).squeeze(1)
    mean = _weighted_sum(weights, x, buffer)
    if mean.sum().isfinite():
        return mean
    return _weighted_sum(weights, x.masked_fill(hidden, 0), buffer)  # 0 times infinity is not 0


def _weighted_sum(
    weights: "torch.Tensor", x: "torch.Tensor", buffer: "torch.Tensor"
) -> "torch.Tensor":
    """Compute (batch, 1, tokens) @ (batch, tokens, neurons) -> (batch, neurons) in float32.

    Numbers of another format are converted in the buffer, which is reused: memory that is newly
    allocated for each conversion would not be in the processor's cache.
    """
    import torch

    if x.dtype == torch.float32:
        return (weights @ x).squeeze(1)
    tokens, neurons = x.shape[1:]
    rows = max(1, min(len(x), _NUMBERS_AT_ONCE // (tokens * neurons)))
    buffer.resize_(rows, tokens, neurons)
    spans = [slice(start, start + rows) for start in range(0, len(x), rows)]
    sums = [weights[span] @ buffer[: len(x[span])].copy_(x[span]) for span in spans]
    return torch.cat(sums).squeeze(1)
