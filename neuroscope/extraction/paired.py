"""Passes of two models over the same batches: the base, and the candidate that may replace it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neuroscope.extraction.batching import Batch
from neuroscope.extraction.budget import TokenBudget, usual_budget
from neuroscope.extraction.memory import give_back_memory
from neuroscope.extraction.models import Model
from neuroscope.extraction.patching import patched
from neuroscope.extraction.pooling import pooling
from neuroscope.extraction.reading import divided
from neuroscope.extraction.recorder import Keep, Recorder
from neuroscope.extraction.stream_changes import StreamChange, StreamSums
from neuroscope.options import Pool
from neuroscope.sites import Site

if TYPE_CHECKING:
    import torch

_OUTPUT_BYTES = 2**28
"""Maximum bytes of a batch's outputs, in float32; several tensors of this size are in memory."""


@dataclass(frozen=True, eq=False)
class PairedValues:
    """What is kept of one batch that has passed through both models.

    `base` and `candidate`, (batch, tokens, outputs), are the logits or the final representations.
    """

    batch: Batch
    base: "torch.Tensor"
    candidate: "torch.Tensor"
    local: "Mapping[Site, torch.Tensor]" = field(default_factory=dict)
    """Site -> (batch, neurons) pooled values of the candidate, each of whose layers reads what the
    base's layer reads."""
    stream: Mapping[Site, StreamSums] = field(default_factory=dict)
    """Site -> change of the residual stream."""


def paired_passes(
    base: Model,
    candidate: Model,
    batches: Iterable[Batch],
    output: str,
    local: Sequence[Site],
    *,
    pool: Pool,
    budget: TokenBudget,
    stream: StreamChange | None = None,
) -> Iterator[PairedValues]:
    """Run each batch through both models, and through the candidate on the base's layer inputs.

    Args:
        base: model from `load_model`.
        candidate: model that reads the same tokens as the base.
        batches: batches from `batching.batches`; `output_budget` limits their outputs.
        output: component that both models compute last, `logits` or `final`.
        local: sites that are read in the candidate while the input of each of its layers is that
            of the same layer of the base. The models then have the same depth and width. Empty to
            run no such pass.
        pool: way to pool a prompt's tokens, other than `none`.
        budget: token budget that is reduced when a batch does not fit into memory; that batch is
            divided.
        stream: residual streams whose change is reduced, in models of the same depth and width.

    Raises:
        ModelError: the candidate is streamed, and local sites are to be read.
        SiteError: a model does not have a site.
        ResourceError: there is not enough memory for a single prompt.
    """
    ends = [Site(output, model.layer_count - 1) for model in (base, candidate)]
    inputs = [Site("resid_pre", layer) for layer in sorted({site.layer for site in local})]
    before = {site: _same(site, inputs) for site in (stream.sites if stream else ())}
    with ExitStack() as stack:
        of_base = stack.enter_context(Recorder(base, [*inputs, *before.values(), ends[0]]))
        of_candidate = stack.enter_context(Recorder(candidate, [*before, ends[1]]))
        of_local = stack.enter_context(Recorder(candidate, local)) if local else None

        def run(batch: Batch) -> PairedValues:
            kept = of_base.run(batch.inputs(base))
            other = of_candidate.run(
                batch.inputs(candidate), lambda site: reduced(site, batch, kept)
            )
            outputs = kept[ends[0]], other.pop(ends[1])
            if of_local is None:
                return PairedValues(batch, *outputs, stream=other)
            with patched(candidate, {site: kept[site] for site in inputs}):
                pooled = pooling(pool, batch.kept)
                values = of_local.run(batch.inputs(candidate), lambda site: pooled)
            return PairedValues(batch, *outputs, values, other)

        def reduced(site: Site, batch: Batch, kept: Mapping[Site, Any]) -> Keep:
            if stream is None or site not in before:
                return lambda values: values.clone()
            return lambda values: stream.reduce(batch, kept[before[site]], values)

        for batch in batches:
            for _, values in divided(batch, run, budget):
                yield values
            give_back_memory()


def _same(site: Site, inputs: Sequence[Site]) -> Site:
    """Return the site at which a residual stream is kept: as the input of the next layer, if so."""
    following = Site("resid_pre", site.layer + 1)
    return following if following in inputs else site


def patched_outputs(
    base: Model, candidate: Model, batch: Batch, output: str, sites: Sequence[Site]
) -> "Iterator[torch.Tensor]":
    """Yield the outputs of a batch in the base, in the candidate, and after each patch.

    Args:
        base: model from `load_model`.
        candidate: model of the same depth and width that reads the same tokens.
        batch: batch that fits into memory together with the residual streams of all sites.
        output: component that both models compute last, `logits` or `final`.
        sites: residual streams of the candidate that are replaced by those of the base, one per
            patch.

    Yields:
        (batch, tokens, outputs) of the base, of the candidate, and of the candidate with each of
        the sites replaced.
    """
    end = Site(output, base.layer_count - 1)
    with Recorder(base, [*sites, end]) as recorder:
        kept = recorder.run(batch.inputs(base))
    yield kept.pop(end)
    with Recorder(candidate, [end]) as recorder:
        yield recorder.run(batch.inputs(candidate))[end]
        for site in sites:
            with patched(candidate, {site: kept.pop(site)}):
                yield recorder.run(batch.inputs(candidate))[end]


def output_budget(models: Sequence[Model], output: str) -> TokenBudget:
    """Return the token budget of batches whose outputs stay in memory."""
    widths = [model.checkpoint.neurons(output) for model in models]
    device: Any = models[0].device
    return TokenBudget(max(1, min(usual_budget(str(device)), _OUTPUT_BYTES // (4 * max(widths)))))
