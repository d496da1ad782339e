"""Projection of prompts onto directions during a pass, so that their activations are not kept."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from neuroscope.activations import Floats
from neuroscope.extraction.batching import Batch
from neuroscope.extraction.pooling import pooling
from neuroscope.extraction.recorder import Keep
from neuroscope.options import Pool
from neuroscope.sites import Site

if TYPE_CHECKING:
    import torch


class Projections:
    """Rider that projects each prompt's pooled activations onto the directions of each site."""

    def __init__(self, pool: Pool, directions: Mapping[Site, Floats], prompts: int):
        """Prepare for a pass.

        Args:
            pool: way to pool a prompt's tokens into one row; not `none`.
            directions: site -> (neurons, directions).
            prompts: number of prompts of the pass.
        """
        self._pool, self._directions = pool, directions
        self.scores: dict[Site, Floats] = {
            site: np.empty((prompts, own.shape[1]), dtype=np.float32)
            for site, own in directions.items()
        }
        """Site -> (prompts, directions), complete after the pass."""

    def reduce(self, site: Site, batch: Batch) -> Keep:
        """Return the function that pools a batch and projects it."""
        import torch

        pooled, directions = pooling(self._pool, batch.kept), self._directions[site]

        def reduce(values: "torch.Tensor") -> "torch.Tensor":
            projected: torch.Tensor = pooled(values) @ torch.from_numpy(directions).to(
                values.device
            )
            return projected

        return reduce

    def add(self, site: Site, batch: Batch, reduced: "torch.Tensor") -> None:
        """Store the scores of a batch."""
        self.scores[site][batch.members] = reduced.cpu().numpy()
