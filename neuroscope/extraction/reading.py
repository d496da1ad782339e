"""Runs batches through a model and gives what is kept of its sites, in memory or streamed."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

from neuroscope.errors import ResourceError
from neuroscope.extraction.batching import Batch
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.memory import give_back_memory
from neuroscope.extraction.models import Model
from neuroscope.extraction.recorder import Keep, Recorder
from neuroscope.sites import Site

Found = dict[Site, Any]
"""What is kept of a batch at each site."""

_BATCHES_BETWEEN = 8  # two returns of memory, each of which takes a hundredth of a batch's time


def read_sites(
    model: Model,
    batches: Iterable[Batch],
    sites: Sequence[Site],
    keep: Callable[[Batch], Keep],
    budget: TokenBudget,
) -> Generator[tuple[Batch, Site, Any], None, None]:
    """What is kept of each site of each batch.

    A model in memory gives all sites of one batch after the other; a streamed one all batches of
    one site after the other, as each of its layers is loaded once.

    Args:
        keep: gives what reduces a batch's (batch, tokens, neurons) tensors.
        budget: told of batches that are too large for the device; they are divided.

    Raises:
        ResourceError: the device has not the memory for a single prompt, or, streamed, for a
            batch.
    """
    if model.streamed:
        yield from _stream(model, list(batches), sites, keep)
        return
    with Recorder(model, sites) as recorder:

        def run(batch: Batch) -> Found:
            return recorder.run(batch.inputs(model), keep(batch))

        for number, batch in enumerate(batches, 1):
            for part, found in _divided(batch, run, budget):
                for site, values in found.items():
                    yield part, site, values
            if number % _BATCHES_BETWEEN == 0:
                give_back_memory()


def _stream(
    model: Model, batches: list[Batch], sites: Sequence[Site], keep: Callable[[Batch], Keep]
) -> Generator[tuple[Batch, Site, Any], None, None]:
    from neuroscope.extraction.streaming import stream_sites

    passes = ((batch.inputs(model), keep(batch)) for batch in batches)
    try:
        with closing(stream_sites(model, passes, sites)) as stream:
            for site, kept in stream:
                for batch, values in zip(batches, kept, strict=True):
                    yield batch, site, values
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        raise ResourceError(
            f"there is not the memory for '{model.name}' on {model.device}: give a smaller --budget"
            f" than {max(batch.ids.numel() for batch in batches)} tokens, or free some"
        ) from error


def _divided(
    batch: Batch, run: Callable[[Batch], Found], budget: TokenBudget
) -> Iterator[tuple[Batch, Found]]:
    """One pass, or several of fewer prompts where the device has not the memory for all.

    Raises:
        ResourceError: it has not enough for a single prompt.
    """
    found = None
    try:
        found = run(batch)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        if len(batch.members) == 1:
            raise ResourceError(
                f"there is not the memory for one prompt of {batch.ids.shape[1]} tokens on"
                f" {batch.ids.device}: shorten it, free some memory, or choose --memory stream"
            ) from error
    if found is not None:
        yield batch, found
        return
    budget.exceeded(batch.ids.numel())  # what the failed pass held is free again
    for half in batch.halves():
        yield from _divided(half, run, budget)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device had not the memory; torch has a type of its own for CUDA only."""
    told = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return any(words in str(error) for words in told)
