"""One-sentence summary of a comparison."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_TOKENS = {"span": "the replaced words", "aligned": "all tokens"}


def headline(
    pairs: Sequence[str],
    layers: Sequence[int],
    view: str,
    cosines: NDArray[np.float64] | None,
) -> str:
    """Return a sentence on the pairs and layers that are least and most alike.

    Args:
        pairs: names of the pairs.
        layers: layers that were compared.
        view: view of the values, `span` or `aligned`.
        cosines: standardised cosine in this view, (pairs, layers); None if no view has a value.
    """
    if cosines is None:
        return "No pair has words to compare."
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
