"""What the weights of a neuron say without any prompt: tokens it promotes, and its neighbours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import Option, ResourceError
from neuroscope.extraction.memory import is_out_of_memory
from neuroscope.extraction.models import Model
from neuroscope.sites import Site

if TYPE_CHECKING:
    import torch

_NEURONS_AT_ONCE = 256
"""Neurons that are compared with all tokens, or with all other neurons, at once."""
_SCORES_AT_ONCE = 2**24
"""Scores of neurons and tokens, or of pairs of neurons, that are in memory at once."""
_MOST_PAIRS = 2**34
"""Pairs of neurons up to which neighbours are sought in all layers, and not within one."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """The first of many for each neuron, in order."""

    indices: NDArray[np.int32]
    """(neurons, rank)."""
    scores: NDArray[np.float32]
    """(neurons, rank)."""


@dataclass(frozen=True, eq=False)
class WeightProfile:
    """What the weights of the neurons of several sites say, in the order of the sites."""

    promotes: Ranked
    """Ids of the tokens whose scores a neuron raises most."""
    suppresses: Ranked
    """Ids of the tokens whose scores a neuron lowers most."""
    neighbours: Ranked | None
    """Other neurons whose output weights have the largest cosine; None without such weights."""


def weight_profile(model: Model, sites: Sequence[Site], count: int) -> WeightProfile | None:
    """Return what the weights of neurons say; None if they do not write to the residual stream.

    A neuron of `mlp_act` writes its column of the down-projection to the residual stream; a neuron
    of the residual stream is one of its directions. The score of a token is the product with its
    row of the unembedding, or of the embedding if the model has no head, from which the mean over
    all tokens is removed. A norm between is ignored.

    Args:
        model: loaded model, with all weights in memory.
        sites: sites of one component.
        count: number of tokens and of neighbours per neuron.

    Raises:
        ResourceError: there is not enough memory.
    """
    import torch

    if model.streamed or any(site.component == "logits" for site in sites):
        return None
    try:
        with torch.inference_mode():
            promotes, suppresses = _tokens_by_score(model, sites, count)
            own = sites[0].component == "mlp_act"
            neighbours = _neighbours(_units(model, sites), [len(sites), count]) if own else None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"not enough memory on {_embeddings(model).device} to compare the weights of the"
            f" neurons of '{model.name}'",
            options=[Option("memory", "stream", "leave out what weights say")],
            remedy="free some memory",
        ) from error
    return WeightProfile(promotes, suppresses, neighbours)


def _embeddings(model: Model) -> "torch.Tensor":
    """Return the (tokens, width) unembedding or, without a head, the embedding."""
    embeddings = model.module.get_output_embeddings() if model.has_head else None
    embeddings = embeddings or model.body.get_input_embeddings()
    weight: torch.Tensor = embeddings.weight.detach()
    return weight


def _token_rows(model: Model) -> "torch.Tensor":
    """Return the (tokens, width) row of each token, less the mean over all tokens, in float32.

    Rows beyond the vocabulary, which pad the matrix to a round number, are left out.
    """
    import torch

    rows = _embeddings(model)[: len(model.vocabulary.texts)].to(torch.float32, copy=True)
    return rows.sub_(rows.mean(dim=0))


def _written(model: Model, site: Site, rows: int) -> "Iterator[torch.Tensor]":
    """Yield what some neurons of a site write to the residual stream, (neurons, width) float32.

    Layers may be on several devices; each block is on that of the embeddings.

    Args:
        model: loaded model.
        site: site of the neurons.
        rows: number of neurons per block.
    """
    import torch

    embeddings = _embeddings(model)
    device, width = embeddings.device, embeddings.shape[1]
    if site.component != "mlp_act":
        for units in torch.split(torch.arange(width, device=device), rows):
            yield torch.nn.functional.one_hot(units, width).float()
        return
    down: Any = model.layer(site.layer).get_submodule(model.architecture.down)
    weight: torch.Tensor = down.weight.detach()
    # torch's Linear keeps (outputs, inputs), the Conv1D of GPT-2 (inputs, outputs)
    weight = weight.T if isinstance(down, torch.nn.Linear) else weight
    for block in torch.split(weight, rows):
        yield block.to(device, torch.float32)


def _tokens_by_score(model: Model, sites: Sequence[Site], count: int) -> tuple[Ranked, Ranked]:
    """Return the tokens with the highest and with the lowest scores of each neuron."""
    tokens = _token_rows(model)
    step = _step(len(tokens))
    buffer = tokens.new_empty((step, len(tokens)))
    high, low = [], []
    for site in sites:
        for block in _written(model, site, step):
            scores = _products(block, tokens, buffer)
            high.append(scores.topk(count, dim=1))
            low.append(scores.topk(count, dim=1, largest=False))
    return _ranked(high), _ranked(low)


def _units(model: Model, sites: Sequence[Site]) -> "torch.Tensor":
    """Return the (neurons, width) output weights of all sites, each row of length 1."""
    import torch

    embeddings = _embeddings(model)
    neurons = sum(model.checkpoint.neurons(site.component) for site in sites)
    units = torch.empty((neurons, embeddings.shape[1]), device=embeddings.device)
    first = 0
    for site in sites:
        for block in _written(model, site, _NEURONS_AT_ONCE):
            units[first : first + len(block)] = torch.nn.functional.normalize(block, dim=1)
            first += len(block)
    return units


def _neighbours(units: "torch.Tensor", shape: Sequence[int]) -> Ranked:
    """Return the neurons with the largest cosine to each neuron.

    Args:
        units: (neurons, width) output weights of all sites, each row of length 1.
        shape: number of sites, and of neighbours per neuron.
    """
    import torch

    sites, count = shape
    whole = len(units) ** 2 <= _MOST_PAIRS
    blocks = [units] if whole else list(units.chunk(sites))
    best, first = [], 0
    for block in blocks:
        step = _step(len(block))
        buffer = block.new_empty((step, len(block)))
        for start in range(0, len(block), step):
            cosines = _products(block[start : start + step], block, buffer)
            rows = torch.arange(len(cosines), device=cosines.device)
            cosines[rows, start + rows] = -torch.inf
            found = cosines.topk(min(count, len(block) - 1), dim=1)
            best.append((found.values, found.indices + first))
        first += len(block)
    return _ranked(best)


def _products(
    rows: "torch.Tensor", others: "torch.Tensor", buffer: "torch.Tensor"
) -> "torch.Tensor":
    """Return the products of each row with all others, (rows, others), in a buffer.

    New matrices for each block would leave gaps on the heap, among the small results.
    """
    import torch

    return torch.mm(rows, others.T, out=buffer[: len(rows)])


def _step(columns: int) -> int:
    """Return the number of neurons that are compared with `columns` others at once."""
    return max(1, min(_NEURONS_AT_ONCE, _SCORES_AT_ONCE // columns))


def _ranked(parts: Sequence[Any]) -> Ranked:
    """Return the results of `topk` over several blocks of neurons."""
    import torch

    scores, indices = (torch.cat([part[item] for part in parts]).cpu() for item in (0, 1))
    return Ranked(indices.to(torch.int32).numpy(), scores.float().numpy())
