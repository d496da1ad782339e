"""Statistics that ride on a forward pass."""

from typing import Any, Protocol

from neuroscope.extraction.batching import Batch
from neuroscope.extraction.recorder import Keep
from neuroscope.sites import Site


class Rider(Protocol):
    """Statistics computed where the activations are, before they are pooled."""

    def reduce(self, site: Site, batch: Batch) -> Keep:
        """Return what reduces the site's (batch, tokens, neurons) tensor inside the hook."""
        ...

    def add(self, site: Site, batch: Batch, reduced: Any) -> None:
        """Take what was reduced, after the pass, in main memory."""
        ...
