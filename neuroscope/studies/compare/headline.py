"""One-sentence summary of a comparison."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_TOKENS = {"span": "the replaced words", "aligned": "all tokens"}


def headline(
    pairs: Sequence[str], layers: Sequence[int], values: Mapping[str, NDArray[np.float64]]
) -> str:
    """Return a sentence on the pairs and layers that are least and most alike.

    Args:
        pairs: names of the pairs.
        layers: layers that were compared.
        values: standardised cosine of the views `span` and `aligned`, each (pairs, layers); the
            second is used if the first has no value.
    """
    view = next((view for view in _TOKENS if np.isfinite(values[view]).any()), None)
    if view is None:
        return "No pair has words to compare."
    cosines = values[view]
    least, most = int(np.nanargmin(cosines)), int(np.nanargmax(cosines))
    (low_pair, low_layer), (high_pair, high_layer) = (
        divmod(index, len(layers)) for index in (least, most)
    )
    low = f"(standardised cosine of {_TOKENS[view]} {cosines.flat[least]:z.2f})"
    high = f"({cosines.flat[most]:z.2f})"
    at_low, at_high = f"at layer {layers[low_layer]}", f"at layer {layers[high_layer]}"
    if cosines.size == 1:
        return f"{pairs[0]} {at_low} {low}."
    if len(pairs) == 1:
        return f"{pairs[0]}: least alike {at_low} {low}, most alike {at_high} {high}."
    return (
        f"Least alike: {pairs[low_pair]} {at_low} {low};"
        f" most alike: {pairs[high_pair]} {at_high} {high}."
    )
