"""Nearest neighbours of prompts: how many of them two models have in common."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.checks import check_activations
from neuroscope.stats.moments import Doubles, Moments
from neuroscope.stats.similarity import Array

Indices = NDArray[np.int64]


def mutual_neighbours(a: Array, b: Array, k: int = 10) -> float:
    """Return the mean share of the k nearest neighbours of a prompt that two models agree on.

    Neighbours are the other prompts of largest cosine; each neuron is standardised by its own mean
    and standard deviation over the prompts first, so that no neuron of large variance decides. The
    measure is the mutual k-nearest-neighbour metric of Huh et al. (2024, arXiv:2405.07987). Models
    may differ in width and basis. Unrelated models have about k / (prompts - 1).

    Which of several equally near prompts are neighbours is arbitrary. Prompts of equal text are
    equally near: the value can therefore fall below 1 for models that agree if more than k other
    prompts are among the nearest, but a prompt never counts as its own neighbour.

    Args:
        a: (prompts, neurons) activations of one model.
        b: (prompts, neurons) activations of the other: the same prompts.
        k: number of neighbours per prompt.

    Returns:
        A share from 0 to 1.

    Raises:
        ValueError: numbers of prompts differ; `k` is not between 1 and the number of other
            prompts; a value is NaN or infinite; no neuron of a model varies.
    """
    _check(a, "a")
    _check(b, "b")
    if len(a) != len(b):
        raise ValueError(f"numbers of prompts differ: {len(a)} and {len(b)}")
    _check_k(k, len(a) - 1)
    neighbours = [
        _nearest(Moments.of(activations).standardise(activations), None, k)
        for activations in (a, b)
    ]
    return _overlap(*neighbours)


def recall(index: Array, queries: Array, reference_queries: Array, k: int = 10) -> float:
    """Return the share of the k nearest entries of an index that other queries still find.

    The index and `reference_queries` usually come from the base and `queries` from the candidate:
    the recall then says what a search over stored activations loses if only the queries are
    computed with the candidate. Nearness is the cosine of activations, all of which are
    standardised by the mean and standard deviation of each neuron over the index. Which of several
    equally near entries are found is arbitrary. An index that contains the prompts of the queries
    has a recall that is higher by up to 1/k, because each query finds itself.

    Args:
        index: (entries, neurons) stored activations.
        queries: (queries, neurons) activations of the queries.
        reference_queries: activations of the same queries in the same order that the index is
            meant for.
        k: number of entries that a query finds.

    Returns:
        Mean over the queries of a share from 0 to 1.

    Raises:
        ValueError: shapes do not match; `k` is not between 1 and the number of entries; a value is
            NaN or infinite; no neuron of the index varies.
    """
    _check(index, "index")
    check_activations(queries, "queries")
    check_activations(reference_queries, "reference_queries")
    if queries.shape != reference_queries.shape or queries.shape[1] != index.shape[1]:
        shapes = index.shape, queries.shape, reference_queries.shape
        raise ValueError(f"shapes of index, queries and reference queries do not match: {shapes}")
    _check_k(k, len(index))
    moments = Moments.of(index)
    entries = moments.standardise(index)
    return _overlap(
        _nearest(entries, moments.standardise(queries), k),
        _nearest(entries, moments.standardise(reference_queries), k),
    )


def varies(activations: Array) -> bool:
    """Return whether any neuron of (prompts, neurons) activations differs between prompts.

    Otherwise no prompt has nearest neighbours.
    """
    return bool((activations != activations[0]).any())


def _check(activations: Array, name: str) -> None:
    """Raise ValueError unless neighbours among these activations, (prompts, neurons), exist."""
    check_activations(activations, name, least=2)
    if not varies(activations):
        raise ValueError(f"no neuron of {name} varies, so its prompts have no nearest neighbours")


def _check_k(k: int, most: int) -> None:
    """Raise ValueError unless there can be k neighbours."""
    if not 1 <= k <= most:
        raise ValueError(f"k must be between 1 and {most}, the number of neighbours; it is {k}")


def _nearest(entries: Doubles, queries: Doubles | None, k: int) -> Indices:
    """Return the k entries of largest cosine with each query, (queries, k).

    Without queries, the entries are the queries, and no entry is its own neighbour.
    """
    from sklearn.neighbors import NearestNeighbors

    search: Any = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(entries)
    nearest: Indices = search.kneighbors(queries, return_distance=False)
    return nearest


def _overlap(a: Indices, b: Indices) -> float:
    """Return the mean share of common neighbours, given (queries, k) of two models."""
    pairs = zip(a, b, strict=True)
    return float(np.mean([len(np.intersect1d(row, other)) for row, other in pairs]) / a.shape[1])
