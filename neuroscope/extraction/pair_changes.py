"""Changes from a base to a candidate, from passes of both over the same prompts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neuroscope.activations import Floats
from neuroscope.errors import NonfiniteError
from neuroscope.extraction.batching import Batch, batches
from neuroscope.extraction.behaviour import (
    TokenPredictions,
    compare_predictions,
    compare_representations,
    expected_counts,
    token_divergence,
)
from neuroscope.extraction.models import Model
from neuroscope.extraction.paired import (
    PairedValues,
    output_budget,
    paired_passes,
    patched_outputs,
)
from neuroscope.extraction.reading import divided
from neuroscope.extraction.stream_changes import StreamChange
from neuroscope.options import Pool
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site
from neuroscope.stats.moments import Doubles
from neuroscope.tokens import TokenBlock

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Behaviour:
    """Change of the outputs at each position of the prompts, (positions,) each."""

    prompts: NDArray[np.int64]
    """Number of the prompt of each position."""
    positions: NDArray[np.int64]
    """Position of the token that is predicted or represented, in its prompt."""
    divergence: Doubles
    """KL divergence in nats; without a language-model head, 1 - cosine of the final
    representations."""
    predictions: TokenPredictions | None
    """Changes of the predictions; None without a language-model head."""


@dataclass(frozen=True, eq=False)
class Passes:
    """What is kept of the passes of both models over the same prompts."""

    block: TokenBlock
    """Tokens of the prompts."""
    local: Mapping[Site, Floats]
    """Site -> (prompts, neurons) pooled values of the candidate's layers on the base's inputs."""
    behaviour: Behaviour
    expected: tuple[Doubles, Doubles] | None
    """How often base and candidate expect each token, (groups, vocabulary) each; None without a
    language-model head."""
    stream: StreamChange | None = None
    """Change of the residual stream by position; None if the models differ in shape."""
    bounded: bool = False
    """Whether KL divergences are lower bounds, as the outputs of the base were recorded."""


def run_pair(
    base: Model,
    candidate: Model,
    block: TokenBlock,
    prompts: PromptSet,
    local: Sequence[Site],
    *,
    pool: Pool,
    groups: NDArray[np.int64],
    stream: Sequence[Site] = (),
) -> Passes:
    """Run both models over the prompts.

    Args:
        base: model, with its language-model head if both have one.
        candidate: model that reads the same tokens.
        block: tokens of the prompts.
        prompts: the prompts.
        local: sites that are read on the base's inputs; empty if the models differ in shape.
        pool: way to pool a prompt's tokens.
        groups: (prompts,) number of the group of each prompt, for which expected tokens are
            counted.
        stream: residual streams whose change is added up by position; empty if the models differ in
            shape.

    Raises:
        NonfiniteError: a model computes NaN or infinity.
    """
    output = output_of(base, candidate)
    arrays: dict[Site, Floats] = {}
    parts: list[Behaviour] = []
    counts: tuple[Doubles, Doubles] | None = None
    budget = output_budget([base, candidate], output)
    passing = batches(base, block, token_rule="content", budget=budget)
    count, longest = int(groups.max()) + 1, int(block.lengths.max())
    change = StreamChange(stream, groups, count, longest) if stream else None
    paired = paired_passes(
        base, candidate, passing, output, local, pool=pool, budget=budget, stream=change
    )
    for values in paired:
        _check_finite(values, base, candidate, prompts)
        if change:
            change.add(values.batch, values.stream)
        parts.append(_behaviour(base, values, logits=output == "logits"))
        if output == "logits":
            expected = _expected(base, values, groups)
            counts = (counts[0] + expected[0], counts[1] + expected[1]) if counts else expected
        for site, pooled in values.local.items():
            rows = pooled.cpu().numpy()
            arrays.setdefault(site, np.empty((len(block), rows.shape[1]), dtype=np.float32))
            arrays[site][values.batch.members] = rows
    return Passes(block, {site: arrays[site] for site in local}, _joined(parts), counts, change)


def patching(
    base: Model, candidate: Model, block: TokenBlock, sites: Sequence[Site]
) -> tuple[Doubles, Doubles]:
    """Return the mean divergence per prompt without a patch, and after each patch.

    Args:
        base: model, with its language-model head if both have one.
        candidate: model of the same shape that reads the same tokens.
        block: tokens of the prompts.
        sites: residual streams that are replaced by those of the base, one at a time.

    Returns:
        (prompts,) and (sites, prompts) mean divergence over the content tokens.
    """
    output = output_of(base, candidate)
    budget = output_budget([base, candidate], output)
    divergences = np.empty((1 + len(sites), len(block)))
    for batch in batches(base, block, token_rule="content", budget=budget):
        for part, change in divided(
            batch, lambda batch: _patched_changes(base, candidate, batch, output, sites), budget
        ):
            divergences[:, part.members] = change
    return divergences[0], divergences[1:]


def _patched_changes(
    base: Model, candidate: Model, batch: Batch, output: str, sites: Sequence[Site]
) -> Doubles:
    """Return the mean divergence per prompt of a batch, (1 + sites, batch); 0 if none counts."""
    logits = output == "logits"
    outputs = patched_outputs(base, candidate, batch, output, sites)
    own = next(outputs)
    rows, _, owners, _ = positions_of(base, batch, logits=logits)
    order = np.argsort(batch.members)
    members = order[np.searchsorted(batch.members, owners, sorter=order)]  # rows of the batch
    counts = np.bincount(members, minlength=len(order))
    sums = [
        np.bincount(
            members,
            weights=token_divergence(*_common(_at(rows, own), _at(rows, patched)), logits=logits),
            minlength=len(order),
        )
        for patched in outputs
    ]
    means: Doubles = np.array(sums) / np.maximum(counts, 1)
    return means


def output_of(base: Model, candidate: Model) -> str:
    """Return the component whose change is the change of behaviour."""
    return "logits" if base.has_head and candidate.has_head else "final"


def are_comparable(base: Model, candidate: Model, block: TokenBlock) -> bool:
    """Return whether the outputs of two models can be compared: predictions, or equal widths.

    A causal model predicts no token of prompts that are one token each.
    """
    if output_of(base, candidate) == "logits":
        return not base.architecture.causal or bool((block.lengths > 1).any())
    return base.checkpoint.neurons("final") == candidate.checkpoint.neurons("final")


def _at(rows: "torch.Tensor", outputs: "torch.Tensor") -> "torch.Tensor":
    """Return the outputs at some positions, which may be on another device."""
    return outputs[rows.to(outputs.device)]


def _common(base: "torch.Tensor", candidate: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the outputs for the tokens that both vocabularies have; those added are at the end."""
    width = min(base.shape[1], candidate.shape[1])
    return base[:, :width], candidate[:, :width]


def positions_of(
    base: Model, batch: Batch, *, logits: bool
) -> tuple["torch.Tensor", NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return where a batch's outputs are compared, and what is there.

    In a causal model with a head, the logits at a position predict the next token.

    Returns:
        (batch, tokens) flags, and for each position: the actual token, the number of its prompt,
        and its position in the prompt.
    """
    import torch

    predicted = batch.kept.clone()
    if logits and base.architecture.causal:
        predicted[:, 0] = False
        predicted &= batch.mask.bool().roll(1, dims=1)  # a token that follows padding is the first
    order = (batch.mask.cumsum(dim=1) - 1)[predicted].cpu().numpy()
    actual = batch.ids[predicted].cpu().numpy()
    owners = np.repeat(batch.members, predicted.sum(dim=1).cpu().numpy())
    rows = predicted
    if logits and base.architecture.causal:
        rows = torch.roll(predicted, -1, dims=1)
    return rows, actual, owners, order


def _behaviour(base: Model, values: PairedValues, *, logits: bool) -> Behaviour:
    """Return the change of behaviour in a batch."""
    import torch

    rows, actual, owners, order = positions_of(base, values.batch, logits=logits)
    own, other = _common(_at(rows, values.base), _at(rows, values.candidate))
    if not logits:
        return Behaviour(owners, order, compare_representations(own, other), None)
    predictions = compare_predictions(own, other, torch.from_numpy(actual))
    return Behaviour(owners, order, predictions.kl, predictions)


def _expected(
    base: Model, values: PairedValues, groups: NDArray[np.int64]
) -> tuple[Doubles, Doubles]:
    """Return how often both models expect each token in a batch, (groups, vocabulary) each."""
    rows, _, owners, _ = positions_of(base, values.batch, logits=True)
    count = int(groups.max()) + 1
    own, other = (
        expected_counts(outputs, groups[owners], count)
        for outputs in _common(_at(rows, values.base), _at(rows, values.candidate))
    )
    return own, other


def _joined(parts: Sequence[Behaviour]) -> Behaviour:
    """Return the behaviour in all batches, in the order of the prompts and their tokens."""
    prompts = np.concatenate([part.prompts for part in parts])
    positions = np.concatenate([part.positions for part in parts])
    order = np.lexsort((positions, prompts))
    predictions = list(_predictions(parts))
    return Behaviour(
        prompts[order],
        positions[order],
        np.concatenate([part.divergence for part in parts])[order],
        TokenPredictions.joined(predictions).ordered(order) if predictions else None,
    )


def _predictions(parts: Sequence[Behaviour]) -> Iterator[TokenPredictions]:
    for part in parts:
        if part.predictions is not None:
            yield part.predictions


def _check_finite(values: PairedValues, base: Model, candidate: Model, prompts: PromptSet) -> None:
    """Raise NonfiniteError if a model computes NaN or infinity at a token that counts."""
    for model, outputs in ((base, values.base), (candidate, values.candidate)):
        finite = outputs.isfinite().all(dim=2) | ~values.batch.kept.to(outputs.device)
        if not finite.all():
            row = int((~finite).any(dim=1).nonzero()[0])
            raise nonfinite(model, prompts.ids[values.batch.members[row]])


def nonfinite(model: Model, prompt: str) -> NonfiniteError:
    """Return the error about outputs of a prompt, given its id, that are NaN or infinite."""
    return NonfiniteError(f"'{model.name}' computes NaN or infinity for prompt '{prompt}'")
