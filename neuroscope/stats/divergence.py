"""Divergence of two models' predictions of the next token, summarised over many tokens."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.similarity import Array


@dataclass(frozen=True)
class KLSummary:
    """Change of predicted tokens, in the figures of llama.cpp's `--kl-divergence`.

    Standard errors allow for the dependence of tokens of the same prompt, see `summarise_kl`.
    """

    mean: float
    """Mean over tokens of KL(base || candidate), in nats."""
    mean_error: float
    """Standard error of the mean; NaN if there is only one prompt."""
    median: float
    q90: float
    """90 % quantile over tokens, as for the next three."""
    q95: float
    q99: float
    q999: float
    maximum: float
    same_top: float
    """Share of tokens for which both models have the same most probable token."""
    same_top_error: float
    """Standard error of the share; NaN if there is only one prompt."""
    mean_change: float
    """Mean change of the probability of the actual token, candidate minus base, from -1 to 1."""
    rms_change: float
    """Root mean squared change of the probability of the actual token, from 0 to 1."""
    tokens: int
    prompts: int


def summarise_kl(
    kl: Array, same_top: NDArray[np.bool_], change: Array, prompts: NDArray[np.integer]
) -> KLSummary:
    """Summarise the differences of two models' predictions per token.

    Tokens of a prompt depend on each other, so prompts are the unit of the standard errors. With
    G prompts and T tokens, the standard error of the mean m over tokens t is

        sqrt(G / (G - 1) * sum_g (sum_{t in g} (x_t - m))^2) / T,

    the linearised error of a ratio of two sums over clusters (Cochran 1977, Sampling Techniques,
    section 6.4). If all prompts have the same number of tokens, it is the standard error of the
    mean of the prompts' means.

    Args:
        kl: (tokens,) KL(base || candidate) of the distributions of the next token, in nats.
        same_top: (tokens,) whether both models have the same most probable token.
        change: probability of the actual token in the candidate minus that in the base. It may
            have fewer values than there are tokens, as the last token of a prompt has no next one.
        prompts: (tokens,) number of the prompt of each token.

    Raises:
        ValueError: shapes do not match; there is no token or no change; a value is NaN or
            infinite.
    """
    if kl.ndim != 1 or not kl.shape == same_top.shape == prompts.shape or change.ndim != 1:
        shapes = kl.shape, same_top.shape, change.shape, prompts.shape
        raise ValueError(f"values must be one per token; their shapes are {shapes}")
    for name, values in (("kl", kl), ("change", change)):
        if len(values) == 0 or not np.isfinite(values).all():
            raise ValueError(f"{name} has no value, or NaN or infinite values")
    kl, change = kl.astype(np.float64), change.astype(np.float64)
    mean, mean_error = _mean_with_error(kl, prompts)
    same_share, same_error = _mean_with_error(same_top.astype(np.float64), prompts)
    median, q90, q95, q99, q999 = np.quantile(kl, [0.5, 0.9, 0.95, 0.99, 0.999]).tolist()
    return KLSummary(
        mean=mean,
        mean_error=mean_error,
        median=median,
        q90=q90,
        q95=q95,
        q99=q99,
        q999=q999,
        maximum=float(kl.max()),
        same_top=same_share,
        same_top_error=same_error,
        mean_change=float(change.mean()),
        rms_change=float(np.sqrt(np.square(change).mean())),
        tokens=len(kl),
        prompts=len(np.unique(prompts)),
    )


def _mean_with_error(
    values: NDArray[np.float64], prompts: NDArray[np.integer]
) -> tuple[float, float]:
    """Return the mean over tokens, and its standard error with prompts as clusters."""
    mean = float(values.mean())
    _, numbers = np.unique(prompts, return_inverse=True)
    totals = np.bincount(numbers, weights=values - mean)
    if len(totals) < 2:
        return mean, math.nan
    variance = len(totals) / (len(totals) - 1) * float(np.square(totals).sum())
    return mean, math.sqrt(variance) / len(values)
