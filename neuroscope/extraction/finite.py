"""Check of activations for NaN and infinity, which are refused or counted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from neuroscope.errors import NonfiniteError, Option
from neuroscope.sites import Site

if TYPE_CHECKING:
    import numpy as np
    import torch

    from neuroscope.extraction.models import Model


class FiniteCheck:
    """Check that refuses values that are not finite, or counts them if they are allowed.

    `counts` has, for each site with such values, the number of rows that contain at least one.
    """

    def __init__(self, model: "Model", ids: Sequence[str], *, allow: bool = False):
        """Prepare a check of one set of prompts.

        Args:
            model: model, for the error message.
            ids: ids of the prompts.
            allow: whether to count the values instead of refusing them.
        """
        self._model, self._ids, self._allow = model, ids, allow
        self.counts: Counter[Site] = Counter()

    def __call__(self, site: Site, values: "torch.Tensor", owners: "NDArray[np.int64]") -> None:
        """Check the values of one site in one batch.

        Args:
            site: site of the values.
            values: (rows, neurons), in main memory.
            owners: (rows,), position of each row's prompt.

        Raises:
            NonfiniteError: a value is not finite, and such values are not allowed.
        """
        if values.sum().isfinite():  # a single NaN or infinity makes the sum NaN or infinite
            return
        nonfinite = (~values.isfinite()).any(dim=1).numpy()
        if not nonfinite.any():  # the sum itself overflowed
            return
        if not self._allow:
            raise NonfiniteError(
                f"'{self._model.name}' computes NaN or infinity at {site} for prompt"
                f" '{self._ids[owners[nonfinite.argmax()]]}'",
                options=list(self._options()),
                remedy="check its weights",
            )
        self.counts[site] += int(nonfinite.sum())

    def _options(self) -> Iterator[Option]:
        """Yield the settings that may avoid such values, and the one that accepts them."""
        if self._model.dtype != "float32":
            yield Option("dtype", "float32", "compute in float32")
        if self._model.attention != "eager":
            yield Option("attention", "eager", "use another implementation of attention")
        yield Option("allow_nonfinite", True, "keep and count such values")
