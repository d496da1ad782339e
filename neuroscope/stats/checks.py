"""Checks of arrays of activations that several statistics share."""

import numpy as np
from numpy.typing import NDArray


def check_activations(values: NDArray[np.floating], name: str, least: int = 1) -> None:
    """Raise ValueError unless an array is (prompts, neurons) and all its values are finite.

    Args:
        values: activations to check.
        name: name of the array in the message.
        least: smallest number of prompts.

    Raises:
        ValueError: the array has another number of dimensions, too few prompts or no neuron; or a
            value is NaN or infinite, in which case the message gives the first such neuron.
    """
    if values.ndim != 2 or len(values) < least or values.shape[1] == 0:
        raise ValueError(
            f"{name} must be (prompts, neurons) with at least {least} prompts and a neuron;"
            f" its shape is {values.shape}"
        )
    finite = np.isfinite(values.min(axis=0)) & np.isfinite(values.max(axis=0))
    if not finite.all():
        raise ValueError(f"neuron {int(np.argmin(finite))} of {name} has NaN or infinite values")
