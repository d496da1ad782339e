"""Statistics that ride on a pass: computed inside the hooks, before activations are pooled."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from neuroscope.extraction.batching import Batch
from neuroscope.extraction.recorder import Keep
from neuroscope.sites import Site

if TYPE_CHECKING:
    import torch


class Rider(Protocol):
    """Statistics computed where the activations are, before they are pooled.

    >>> class LargestNorm:
    ...     def __init__(self):
    ...         self.norms = {}
    ...
    ...     def reduce(self, site, batch):
    ...         return lambda values: values.norm(dim=2)[batch.kept.to(values.device)].max()
    ...
    ...     def add(self, site, batch, reduced):
    ...         self.norms[site] = max(self.norms.get(site, 0.0), reduced.item())

    Values are not checked for NaN and infinity. The order of batches and sites is not defined.
    """

    def reduce(self, site: Site, batch: Batch) -> Keep:
        """Return what reduces the site's (batch, tokens, neurons) tensor inside the hook.

        It may run several times for the same prompts: a batch that does not fit into the memory is
        divided and runs again. So it changes nothing; `add` does that.
        """
        ...

    def add(self, site: Site, batch: Batch, reduced: Any) -> None:
        """Take what `reduce` made of a site, once per prompt, outside the hooks."""
        ...


def reduce_together(riders: Sequence[Rider], site: Site, batch: Batch) -> Keep:
    """Return what reduces the site's tensor once per rider, to a list in their order."""
    reductions = [rider.reduce(site, batch) for rider in riders]

    def reduce(values: "torch.Tensor") -> list[Any]:
        return [reduction(values) for reduction in reductions]

    return reduce
