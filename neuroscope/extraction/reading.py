"""Runs batches through a model and gives what is kept of its sites, in memory or streamed."""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from neuroscope.extraction.batching import Batch
from neuroscope.extraction.models import Model
from neuroscope.extraction.recorder import Keep, Recorder
from neuroscope.sites import Site


def read_sites(
    model: Model,
    batches: Iterable[Batch],
    sites: Sequence[Site],
    keep: Callable[[Batch], Keep],
) -> Generator[tuple[Batch, Site, Any], None, None]:
    """What is kept of each site of each batch.

    A model in memory gives all sites of one batch after the other; a streamed one all batches of
    one site after the other, as each of its layers is loaded once.

    Args:
        keep: gives what reduces a batch's (batch, tokens, neurons) tensors.
    """
    if model.streamed:
        from neuroscope.extraction.streaming import stream_sites

        held = list(batches)
        passes = ((batch.inputs(model), keep(batch)) for batch in held)
        for site, kept in stream_sites(model, passes, sites):
            for batch, values in zip(held, kept, strict=True):
                yield batch, site, values
        return
    with Recorder(model, sites) as recorder:
        for batch in batches:
            for site, values in recorder.run(batch.inputs(model), keep(batch)).items():
                yield batch, site, values
