"""Runs batches through a model and gives what is kept of its sites, in memory or streamed."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from neuroscope.errors import ActivationError
from neuroscope.extraction.batching import Batch
from neuroscope.extraction.memory import give_back_memory
from neuroscope.extraction.models import Model
from neuroscope.extraction.recorder import Keep, Recorder
from neuroscope.sites import Site

_BATCHES_BETWEEN = 8  # two returns of memory, each of which takes a hundredth of a batch's time


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
        for number, batch in enumerate(batches, 1):
            for part, found in _run(recorder, model, batch, keep):
                for site, values in found.items():
                    yield part, site, values
            if number % _BATCHES_BETWEEN == 0:
                give_back_memory()


def _run(
    recorder: Recorder, model: Model, batch: Batch, keep: Callable[[Batch], Keep]
) -> Iterator[tuple[Batch, dict[Site, Any]]]:
    """One pass, or several of fewer prompts where the device has not the memory for all."""
    found = _attempt(recorder, model, batch, keep)
    if found is not None:
        yield batch, found
    else:  # what the failed pass held is free again
        for half in batch.halves():
            yield from _run(recorder, model, half, keep)


def _attempt(
    recorder: Recorder, model: Model, batch: Batch, keep: Callable[[Batch], Keep]
) -> dict[Site, Any] | None:
    """What is kept of each site, or None where memory ran out.

    Raises:
        ActivationError: it ran out for a single prompt.
    """
    import torch

    try:
        return recorder.run(batch.inputs(model), keep(batch))
    except torch.OutOfMemoryError as error:
        if len(batch.members) > 1:
            return None
        raise ActivationError(
            f"{model.device} has not the memory for one prompt of {batch.ids.shape[1]} tokens in"
            f" '{model.name}': free some, shorten the prompt, or choose --device cpu or --memory"
            " stream"
        ) from error
