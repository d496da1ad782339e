"""Watches for NaN and infinity, which would spoil everything computed from them."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from neuroscope.errors import NonfiniteError
from neuroscope.sites import Site

if TYPE_CHECKING:
    import numpy as np
    import torch


class FiniteCheck:
    """Refuses values that are not finite, or counts them where they are allowed.

    `counts` holds, for each site that has any, how many rows have a value that is not finite.
    """

    def __init__(self, model: str, ids: Sequence[str], *, allow: bool = False):
        self._model, self._ids, self._allow = model, ids, allow
        self.counts: Counter[Site] = Counter()

    def __call__(self, site: Site, values: "torch.Tensor", owners: "NDArray[np.int64]") -> None:
        """Looks at (rows, neurons); `owners` (rows,) are places of the prompts they come from.

        Raises:
            NonfiniteError: a value is not finite and that is not allowed.
        """
        if values.sum().isfinite():  # one NaN or infinity spoils the sum
            return
        spoilt = (~values.isfinite()).any(dim=1).numpy()
        if not spoilt.any():  # only the sum was too large
            return
        if not self._allow:
            raise NonfiniteError(
                f"'{self._model}' gives values that are not finite at {site} for prompt"
                f" '{self._ids[owners[spoilt.argmax()]]}': try --dtype float32 or attention eager,"
                " or --allow-nonfinite to keep and count them"
            )
        self.counts[site] += int(spoilt.sum())
