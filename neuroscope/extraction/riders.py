"""Statistics computed during a pass, inside the hooks, before activations are pooled."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from neuroscope.extraction.batching import Batch
from neuroscope.extraction.recorder import Keep
from neuroscope.sites import Site

if TYPE_CHECKING:
    import torch


class Rider(Protocol):
    """Statistics of activations, computed on the model's device before tokens are pooled.

    >>> class LargestNorm:
    ...     def __init__(self):
    ...         self.norms = {}
    ...
    ...     def reduce(self, site, batch):
    ...         return lambda values: values.norm(dim=2)[batch.kept.to(values.device)].max()
    ...
    ...     def add(self, site, batch, reduced):
    ...         self.norms[site] = max(self.norms.get(site, 0.0), reduced.item())

    Values are not checked for NaN and infinity. The order of batches and sites is undefined.
    """

    def reduce(self, site: Site, batch: Batch) -> Keep:
        """Return the function that reduces a site's (batch, tokens, neurons) tensor in the hook.

        The function must not have side effects: a batch that does not fit into memory is divided
        and run again, so it may be called more than once for the same prompts.
        """
        ...

    def add(self, site: Site, batch: Batch, reduced: Any) -> None:
        """Add the reduced values of a site, after the pass; each prompt is added exactly once.

        Tensors are still on the device on which they were reduced.
        """
        ...


def reduce_together(riders: Sequence[Rider], site: Site, batch: Batch) -> Keep:
    """Return a function that applies every rider's reduction to a site's tensor."""
    reductions = [rider.reduce(site, batch) for rider in riders]

    def reduce(values: "torch.Tensor") -> list[Any]:
        return [reduction(values) for reduction in reductions]

    return reduce
