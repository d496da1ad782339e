"""Reading of sites from batches that run through a model, in memory or streamed."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

from neuroscope.errors import Option, ResourceError
from neuroscope.extraction.batching import Batch
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.memory import give_back_memory, is_out_of_memory
from neuroscope.extraction.models import Model
from neuroscope.extraction.recorder import Keep, Recorder
from neuroscope.extraction.streaming import LayerStream
from neuroscope.sites import Site

KeepOf = Callable[[Site, Batch], Keep]
"""Function that returns, for a site and a batch, the function that reduces the site's tensor."""

T = TypeVar("T")

Reading = Generator[tuple[Batch, Site, Any], None, None]
"""Generator of batches, sites and what is kept of each site in each batch."""

_BATCHES_BETWEEN = 8  # between calls of give_back_memory; a call takes 1 % of a batch's time


def read_sites(
    model: Model,
    batches: Iterable[Batch],
    sites: Sequence[Site],
    keep: KeepOf,
    budget: TokenBudget,
) -> Reading:
    """Yield each batch and site, with what is kept of the site in the batch.

    A model in memory is read batch by batch: it yields all sites of a batch, then those of the
    next. A streamed model, whose layers are loaded once each, is read site by site: it yields all
    batches at a site, then those at the next. Between two layers, every batch of a streamed model
    holds its residual stream, (batch, tokens, neurons), and its attention mask, so there must be
    enough memory for those of all batches.

    Args:
        model: model from `load_model`.
        batches: batches from `batching.batches`.
        sites: sites to read; layers after the last of them do not run.
        keep: function that is called per site and batch; it returns the function that reduces the
            site's (batch, tokens, neurons) tensor to what is kept.
        budget: token budget that is reduced when a batch does not fit into memory; that batch is
            divided.

    Raises:
        SiteError: the model does not have a site.
        ModelError: the weights of a streamed model cannot be read.
        ResourceError: there is not enough memory for a single prompt or, if the model is streamed,
            for all batches.
    """
    if model.stream is None:
        yield from _read_in_turn(model, batches, sites, keep, budget)
    else:
        yield from _read_streamed(model, model.stream, list(batches), sites, keep)


def _read_in_turn(
    model: Model,
    batches: Iterable[Batch],
    sites: Sequence[Site],
    keep: KeepOf,
    budget: TokenBudget,
) -> Reading:
    """Run one batch after another through a model in memory."""
    with Recorder(model, sites) as recorder:

        def run(batch: Batch) -> dict[Site, Any]:
            return recorder.run(batch.inputs(model), partial(_keep_at, keep, batch))

        for number, batch in enumerate(batches, 1):
            for part, kept in divided(batch, run, budget):
                for site, values in kept.items():
                    yield part, site, values
            if number % _BATCHES_BETWEEN == 0:
                give_back_memory()


def _read_streamed(
    model: Model,
    stream: LayerStream,
    batches: Sequence[Batch],
    sites: Sequence[Site],
    keep: KeepOf,
) -> Reading:
    """Run all batches through a streamed model; raise ResourceError if memory runs out."""
    try:
        yield from _stream_layers(model, stream, batches, sites, keep)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        tokens = max(batch.ids.numel() for batch in batches)
        raise ResourceError(
            f"not enough memory on {model.device} for '{model.name}' in batches of {tokens} tokens",
            options=[Option("budget", max(1, tokens // 2), "use smaller batches")],
            remedy="free some memory",
        ) from error


def _stream_layers(
    model: Model,
    stream: LayerStream,
    batches: Sequence[Batch],
    sites: Sequence[Site],
    keep: KeepOf,
) -> Reading:
    """Run all batches through one layer after another.

    Values are released as soon as they are yielded, so that those of only one layer are in memory.
    """
    with Recorder(model, sites) as recorder:
        kept: list[dict[Site, Any]] = [{} for _ in batches]
        passes = [
            partial(recorder.run_into, values, batch.inputs(model), partial(_keep_at, keep, batch))
            for batch, values in zip(batches, kept, strict=True)
        ]
        with closing(stream.run(passes, recorder.sites[-1].layer + 1)) as layers:
            for layer in layers:
                for site in [site for site in recorder.sites if site.layer == layer]:
                    for batch, values in zip(batches, kept, strict=True):
                        yield batch, site, values.pop(site)


def _keep_at(keep: KeepOf, batch: Batch, site: Site) -> Keep:
    """Return `keep(site, batch)`; the batch is an early argument so that `partial` can bind it."""
    return keep(site, batch)


def divided(
    batch: Batch, run: Callable[[Batch], T], budget: TokenBudget
) -> Iterator[tuple[Batch, T]]:
    """Run a batch at once, or in halves if there is not enough memory for all of its prompts.

    Args:
        batch: batch to run.
        run: function that runs the forward passes of a batch and returns what is kept of them.
        budget: token budget that is reduced when a batch does not fit into memory.

    Yields:
        Each batch that was run, and what is kept of it.

    Raises:
        ResourceError: there is not enough memory for a single prompt.
    """
    kept = None
    try:
        kept = (run(batch),)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(batch.members) == 1:
            raise ResourceError(
                f"not enough memory on {batch.ids.device} for one prompt of {batch.ids.shape[1]}"
                " tokens",
                options=[Option("memory", "stream", "leave the weights in their files")],
                remedy="shorten the prompt or free some memory",
            ) from error
    if kept is not None:
        yield batch, kept[0]
        return
    budget.exceeded(batch.ids.numel())  # after the except clause, so that the failed pass is freed
    for half in batch.halves():
        yield from divided(half, run, budget)
