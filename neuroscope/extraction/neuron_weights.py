"""What the weights of a neuron say without any prompt: tokens it promotes, and its neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.models import Model
from neuroscope.sites import Site

if TYPE_CHECKING:
    import torch

_SCORES_AT_ONCE = 2**25
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
    """
    import torch

    if model.streamed or any(site.component == "logits" for site in sites):
        return None
    tokens = _token_rows(model)
    tokens = tokens - tokens.mean(dim=0)
    with torch.inference_mode():
        written = torch.cat([_written(model, site, tokens.shape[1]) for site in sites])
        promotes, suppresses = _tokens_by_score(written, tokens, count)
        own = sites[0].component == "mlp_act"
        neighbours = _neighbours(written, [len(sites), count]) if own else None
    return WeightProfile(promotes, suppresses, neighbours)


def _token_rows(model: Model) -> "torch.Tensor":
    """Return the (tokens, width) unembedding or, without a head, the embedding.

    Rows beyond the vocabulary, which pad the matrix to a round number, are left out.
    """
    embeddings = model.module.get_output_embeddings() if model.has_head else None
    embeddings = embeddings or model.body.get_input_embeddings()
    rows: torch.Tensor = embeddings.weight.detach()[: len(model.vocabulary.texts)].float()
    return rows


def _written(model: Model, site: Site, width: int) -> "torch.Tensor":
    """Return what each neuron of a site writes to the residual stream, (neurons, width)."""
    import torch

    if site.component != "mlp_act":
        return torch.eye(width, device=model.device)
    down: Any = model.layer(site.layer).get_submodule(model.architecture.down)
    weight: torch.Tensor = down.weight.detach().float()
    # torch's Linear keeps (outputs, inputs), the Conv1D of GPT-2 (inputs, outputs)
    return weight.T if isinstance(down, torch.nn.Linear) else weight


def _tokens_by_score(
    written: "torch.Tensor", tokens: "torch.Tensor", count: int
) -> tuple[Ranked, Ranked]:
    """Return the tokens with the highest and with the lowest scores of each neuron."""
    step = max(1, _SCORES_AT_ONCE // len(tokens))
    high, low = [], []
    for start in range(0, len(written), step):
        scores = written[start : start + step] @ tokens.T
        high.append(scores.topk(count, dim=1))
        low.append(scores.topk(count, dim=1, largest=False))
    return _ranked(high), _ranked(low)


def _neighbours(written: "torch.Tensor", shape: Sequence[int]) -> Ranked:
    """Return the neurons with the largest cosine to each neuron.

    Args:
        written: (neurons, width) output weights of all sites.
        shape: number of sites, and of neighbours per neuron.
    """
    import torch

    sites, count = shape
    units = torch.nn.functional.normalize(written, dim=1)
    whole = len(units) ** 2 <= _MOST_PAIRS
    blocks = [units] if whole else list(units.chunk(sites))
    best, first = [], 0
    for block in blocks:
        step = max(1, _SCORES_AT_ONCE // len(block))
        for start in range(0, len(block), step):
            cosines = block[start : start + step] @ block.T
            rows = torch.arange(len(cosines), device=cosines.device)
            cosines[rows, start + rows] = -torch.inf
            found = cosines.topk(min(count, len(block) - 1), dim=1)
            best.append((found.values, found.indices + first))
        first += len(block)
    return _ranked(best)


def _ranked(parts: Sequence[Any]) -> Ranked:
    """Return the results of `topk` over several blocks of neurons."""
    import torch

    scores, indices = (torch.cat([part[item] for part in parts]).cpu() for item in (0, 1))
    return Ranked(indices.to(torch.int32).numpy(), scores.float().numpy())
