"""Sums over tokens that describe the geometry of a layer, computed on the model's device."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_TINY = 1e-30  # avoids 0 / 0 at a token whose activations are all zero


def token_sums(values: "torch.Tensor", kept: "torch.Tensor") -> "dict[str, torch.Tensor]":
    """Return sums over the counted tokens of a (batch, tokens, neurons) tensor.

    All sums except `square` and `unit` are computed from the Gram matrix of the tokens, in float32.
    The relative error of an angle is about 1e-6 |x|^2 / |step|^2.

    Args:
        values: (batch, tokens, neurons) activations, in any floating-point format.
        kept: (batch, tokens) flags, true at the tokens that count, one or more per prompt.

    Returns:
        `square`, (neurons,): sum of each neuron's squares.
        `unit`, (neurons,): sum of the tokens' unit vectors.
        `unit_square`, (batch,): squared norm of that sum within each prompt.
        `norm`, (batch,): sum of the tokens' Euclidean norms.
        `rank`, (batch,): participation ratio (tr K)^2 / tr K^2 of each prompt's Gram matrix K.
        `angles` and `turns`, (batch,): sum, in degrees, and number of the angles between successive
        steps of each prompt's token trajectory.
    """
    kept = kept.to(values.device)
    x = values.float()
    # (batch, tokens, tokens); it is smaller than x, and so cheaper to mask
    gram = (x @ x.mT).masked_fill_(~(kept.unsqueeze(2) & kept.unsqueeze(1)), 0)
    squares = gram.diagonal(dim1=1, dim2=2)
    norms = squares.sqrt()
    inverse = kept / norms.clamp_min(_TINY)
    units = (inverse.unsqueeze(1) @ x).squeeze(1)  # (batch, neurons)
    angles = _angles(gram, squares, kept)
    return {
        "square": kept.flatten().float() @ x.flatten(0, 1).square(),
        "unit": units.sum(dim=0),
        "unit_square": units.square().sum(dim=1),
        "norm": norms.sum(dim=1),
        "rank": squares.sum(dim=1).square() / gram.square().sum(dim=(1, 2)),
        "angles": angles.nan_to_num(0).sum(dim=1),
        "turns": angles.isfinite().sum(dim=1),
    }


def _angles(gram: "torch.Tensor", squares: "torch.Tensor", kept: "torch.Tensor") -> "torch.Tensor":
    """Return the angles between successive steps, (batch, tokens - 2), in degrees.

    An angle is NaN where it is undefined. The steps are v_k = x_(k+1) - x_k. Their squared lengths
    and their products are sums of entries on and next to the diagonal of the Gram matrix.

    Args:
        gram: (batch, tokens, tokens) products of the tokens.
        squares: (batch, tokens) diagonal of `gram`.
        kept: (batch, tokens) flags, true at the tokens that count.
    """
    adjacent, second = (gram.diagonal(offset=offset, dim1=1, dim2=2) for offset in (1, 2))
    lengths = squares[:, 1:] + squares[:, :-1] - 2 * adjacent
    products = adjacent[:, 1:] - squares[:, 1:-1] - second + adjacent[:, :-1]
    scale = lengths[:, 1:] * lengths[:, :-1]
    defined = kept[:, 2:] & kept[:, 1:-1] & kept[:, :-2] & (scale > 0)
    cosines = (products / scale.clamp_min(_TINY).sqrt()).clamp(-1, 1)
    return cosines.acos().rad2deg().masked_fill(~defined, float("nan"))
