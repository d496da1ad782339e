"""Similarity between layers: debiased linear CKA of standardised neurons, in bounded memory."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.moments import Doubles, Moments

Block = Sequence[NDArray[np.float32]]
"""Activations of consecutive prompts: for each layer, (prompts, neurons of the layer)."""
Blocks = Callable[[], Iterable[Block]]
"""Function that starts a new pass over all prompts, block by block."""

_CHUNK = 512
"""Largest number of prompts per matrix product; larger products are no faster."""
_VALUE_COST = 100
"""Time to standardise one value or add up one product, in multiply-adds of a matrix product."""
_ROUNDING = 1e-12
"""Share of |X'X|^2 below which HSIC1 is rounding error."""


def debiased_cka(
    blocks: Blocks, *, moments: Sequence[Moments] | None = None, memory: float = 1e9
) -> Doubles:
    """Return the debiased linear CKA of every pair of layers, (layers, layers).

    Each neuron is standardised by its own mean and standard deviation over all prompts (ddof 1);
    a neuron that never varies counts as 0. Otherwise a single neuron of large variance would
    decide the result. With X and Y two standardised layers, each (prompts, neurons),

        CKA(X, Y) = HSIC1(X, Y) / sqrt(HSIC1(X, X) HSIC1(Y, Y))

    (Kornblith et al. 2019, arXiv:1905.00414; debiased as in Nguyen et al. 2021,
    arXiv:2010.15327), where HSIC1 is the unbiased estimator of Song et al. 2012 (JMLR 13) with
    the linear kernel. For n prompts and centred neurons it is

        n(n-3) HSIC1 = |X'Y|^2 - n/(n-2) sum_i |x_i|^2 |y_i|^2 + |X|^2 |Y|^2 / ((n-1)(n-2)).

    Values lie between -1 and 1; independent layers of any width have values near 0. Permuting or
    rescaling neurons changes nothing. Rotating them does: standardising depends on the basis.

    The term |X'Y|^2 takes most of the time. With D neurons in all layers together, it takes about
    n D^2 / 2 multiply-adds as products of neurons and n^2 D / 2 as products of prompts; the
    cheaper way is chosen. The data are read once for the moments, unless they are given, and then
    once if the products fit in memory; otherwise about 16 D^2 / memory times (neurons) or
    16 n D / memory times (prompts).

    Args:
        blocks: function that starts a pass over the same prompts in the same order. The division
            of the prompts into blocks does not change the result. Layers may differ in width.
        moments: moments of the neurons of each layer over these prompts, if they are known.
        memory: number of bytes to use, apart from the block that `blocks` holds.

    Returns:
        Symmetric matrix with 1 on the diagonal. NaN for a layer whose HSIC1 with itself is not
        positive: none of its neurons varies, or all pairs of prompts are equally similar.

    Raises:
        ValueError: there are fewer than 4 prompts; shapes do not match; a value is NaN or
            infinite; passes differ in length; `memory` is too small for one prompt.
    """
    return _cka(_standardised(blocks, moments or _moments(blocks, memory)), memory)


@dataclass(frozen=True)
class _Features:
    """All layers side by side, D neurons in total, and the shift and scale of each neuron."""

    blocks: Blocks
    prompts: int
    widths: tuple[int, ...]
    mean: Doubles  # (D,)
    scale: Doubles  # (D,)

    @property
    def width(self) -> int:
        """Number of neurons in all layers together, D."""
        return sum(self.widths)

    @property
    def layers(self) -> list[slice]:
        """Columns of each layer."""
        return [slice(*ends) for ends in pairwise(accumulate(self.widths, initial=0))]

    def chunks(self, size: int, first: int = 0) -> Iterator[Doubles]:
        """Yield the standardised prompts in chunks of (`size`, D); the last may be smaller.

        Args:
            size: number of prompts per chunk.
            first: number of the first chunk to yield, from 0.

        Raises:
            ValueError: the pass has another number of prompts than the first pass.
        """
        chunk, row = np.empty((size, self.width)), 0
        for part in _split(self.blocks(), size):
            start, row = row, row + len(part[0])
            if start >= first * size:
                filled = chunk[start % size :][: len(part[0])]
                np.concatenate(part, axis=1, out=filled)
                if row % size == 0:
                    yield self._scaled(chunk)
                    chunk = np.empty_like(chunk)
        if row != self.prompts:
            raise ValueError(
                f"a pass over the blocks has {row} prompts, but the first had {self.prompts}"
            )
        if row % size and row > first * size:
            yield self._scaled(chunk[: row % size])

    def _scaled(self, chunk: Doubles) -> Doubles:
        """Standardise a chunk in place and return it."""
        chunk -= self.mean
        chunk *= self.scale
        return chunk


def _split(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """Yield the blocks, cut wherever the number of prompts reaches a multiple of `size`."""
    row = 0
    for block in blocks:
        start, rows = 0, len(block[0])
        while start < rows:
            stop = min(rows, start + size - row % size)
            yield [layer[start:stop] for layer in block]
            start, row = stop, row + stop - start


def _standardised(blocks: Blocks, moments: Sequence[Moments]) -> _Features:
    """Return the features that standardise every neuron; raise ValueError as in `debiased_cka`."""
    prompts = moments[0].count if moments else 0
    if prompts < 4:
        raise ValueError(f"debiased CKA needs at least 4 prompts; there are {prompts}")
    for number, layer in enumerate(moments):
        if not np.isfinite(layer.m2).all():
            raise ValueError(f"the layer at index {number} has NaN or infinite values")
    mean, sd = (
        np.concatenate([getattr(layer, name) for layer in moments]) for name in ("mean", "sd")
    )
    scale = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 0)
    return _Features(blocks, prompts, tuple(len(layer.mean) for layer in moments), mean, scale)


def _moments(blocks: Blocks, memory: float) -> list[Moments]:
    """Return the moments of the neurons of each layer."""
    moments: list[Moments] = []
    for block in blocks():
        widths = _widths(block)
        moments = moments or [Moments(0, np.zeros(width), np.zeros(width)) for width in widths]
        if widths != [len(layer.mean) for layer in moments]:
            raise ValueError(f"a block has layers of {widths} neurons, unlike the blocks before it")
        for part in _split([block], _room(sum(widths), memory)):
            with np.errstate(invalid="ignore"):  # infinite values are refused by the caller
                parts = [Moments.of(layer) for layer in part]
                moments = [a.merge(b) for a, b in zip(moments, parts, strict=True)]
    return moments


def _widths(block: Block) -> list[int]:
    """Return the number of neurons of each layer; raise ValueError if shapes do not match."""
    shapes = [np.shape(layer) for layer in block]
    if not shapes or any(len(shape) != 2 or shape[1] == 0 for shape in shapes):
        raise ValueError(f"layers of a block must be (prompts, neurons); their shapes are {shapes}")
    if len({rows for rows, _ in shapes}) > 1:
        raise ValueError(f"layers of a block differ in prompts; their shapes are {shapes}")
    return [width for _, width in shapes]


def _room(width: int, memory: float) -> int:
    """Return how many prompts of `width` neurons fit in an eighth of `memory`, at least 1."""
    if memory < 64 * width:
        raise ValueError(
            f"{width} neurons need {64 * width} bytes of memory or more, not {memory:.0f}"
        )
    return int(memory / 64 / width)


class _Sums:
    """Sums over prompts from which HSIC1 of every pair of layers is computed."""

    def __init__(self, layers: int):
        self.products = np.zeros((layers, layers))  # |X'Y|^2, its upper triangle
        self.squares = np.zeros((layers, layers))  # sum_i |x_i|^2 |y_i|^2
        self.norms = np.zeros(layers)  # |X|^2

    def add_norms(self, chunk: Doubles, layers: Sequence[slice]) -> None:
        """Add the squared norms of a chunk of prompts, (prompts, D)."""
        norms = np.stack([np.square(chunk[:, columns]).sum(axis=1) for columns in layers])
        self.squares += norms @ norms.T
        self.norms += norms.sum(axis=1)

    def cka(self, prompts: int) -> Doubles:
        """Return the debiased CKA of every pair of layers, (layers, layers)."""
        n = prompts
        hsic = self.products - n / (n - 2) * self.squares
        hsic += np.outer(self.norms, self.norms) / ((n - 1) * (n - 2))
        own = np.diag(hsic).copy()
        own[own <= _ROUNDING * np.diag(self.products)] = math.nan
        upper = np.triu(hsic / np.sqrt(np.outer(own, own)), 1)
        return upper + upper.T + np.diag(own / own)


@dataclass(frozen=True)
class _PromptProducts:
    """Plan to compute |X'Y|^2 as the sum over pairs of prompts of (X X')_ij (Y Y')_ij."""

    features: _Features
    size: int
    """Number of prompts per chunk."""
    held: int
    """Number of chunks in memory; each pass multiplies them by every chunk after them."""

    @classmethod
    def plan(cls, features: _Features, size: int, memory: float) -> "_PromptProducts":
        """Return a plan that holds as many chunks as fit in `memory`, in bytes."""
        return cls(features, size, max(1, int(memory / 16 / (size * features.width))))

    @property
    def cost(self) -> float:
        """Expected time in multiply-adds."""
        n, width = self.features.prompts, self.features.width
        products = n**2 / 2 * (width + _VALUE_COST * len(self.features.widths))
        return products + math.ceil(n / (self.size * self.held)) * _VALUE_COST * n * width

    def sums(self) -> _Sums:
        """Return the sums over all prompts."""
        layers, count = self.features.layers, math.ceil(self.features.prompts / self.size)
        sums = _Sums(len(layers))
        for first in range(0, count, self.held):
            held: list[Doubles] = []
            for chunk in self.features.chunks(self.size, first):
                for earlier in held:
                    sums.products += 2 * self._products(chunk, earlier)
                if len(held) < self.held:
                    held.append(chunk)
                    sums.products += self._products(chunk, chunk)
                    sums.add_norms(chunk, layers)
        return sums

    def _products(self, a: Doubles, b: Doubles) -> Doubles:
        """Return the sums over the pairs of a prompt of `a` and one of `b`, (layers, layers)."""
        layers = self.features.layers
        grams = np.stack([(a[:, columns] @ b[:, columns].T).ravel() for columns in layers])
        return grams @ grams.T


@dataclass(frozen=True)
class _NeuronProducts:
    """Plan to compute |X'Y|^2 as the sum over pairs of neurons of (X'Y)_jk^2."""

    features: _Features
    size: int
    """Number of prompts per chunk."""
    strips: Sequence[slice]
    """Neurons of each pass, which are multiplied by themselves and all neurons after them."""

    @classmethod
    def plan(cls, features: _Features, size: int, memory: float) -> "_NeuronProducts":
        """Return a plan with strips whose products fit in `memory`, in bytes."""
        strips, start = [], 0
        while start < features.width:
            rest = features.width - start
            strips.append(slice(start, start + min(rest, max(1, int(memory / 32 / rest)))))
            start = strips[-1].stop
        return cls(features, size, strips)

    @property
    def cost(self) -> float:
        """Expected time in multiply-adds."""
        n, width = self.features.prompts, self.features.width
        products = width**2 / 2 * (n + _VALUE_COST * math.ceil(n / self.size))
        return products + len(self.strips) * _VALUE_COST * n * width

    def sums(self) -> _Sums:
        """Return the sums over all prompts."""
        sums = _Sums(len(self.features.widths))
        for strip in self.strips:
            products = np.zeros((strip.stop - strip.start, self.features.width - strip.start))
            for chunk in self.features.chunks(self.size):
                for layer in self.features.layers:
                    start, stop = max(layer.start, strip.start), min(layer.stop, strip.stop)
                    if start < stop:  # what lies below the diagonal is not needed
                        rows = slice(start - strip.start, stop - strip.start)
                        products[rows, rows.start :] += chunk[:, start:stop].T @ chunk[:, start:]
                if strip.start == 0:
                    sums.add_norms(chunk, self.features.layers)
            self._add_squares(sums, np.square(products, out=products), strip)
        return sums

    def _add_squares(self, sums: _Sums, squares: Doubles, strip: slice) -> None:
        """Add the squared products of the neurons in `strip` to their pairs of layers."""

        def within(layer: slice, start: int, stop: int) -> slice:
            """Return a layer's neurons from `start` to `stop`, counted from that of the strip."""
            start, stop = max(layer.start, start), min(layer.stop, stop)
            return slice(start - strip.start, max(start, stop) - strip.start)

        for a, layer in enumerate(self.features.layers):
            rows = squares[within(layer, strip.start, strip.stop)]
            if len(rows):
                sums.products[a, a] += rows[:, within(layer, strip.start, strip.stop)].sum()
                sums.products[a, a] += 2 * rows[:, within(layer, strip.stop, layer.stop)].sum()
                for b, other in enumerate(self.features.layers[a + 1 :], a + 1):
                    sums.products[a, b] += rows[:, within(other, strip.start, other.stop)].sum()


def _cheaper(features: _Features, memory: float) -> _PromptProducts | _NeuronProducts:
    """Return the plan that is expected to take less time."""
    grams = math.isqrt(int(memory / 64 / len(features.widths)))  # of two chunks, in every layer
    size = min(features.prompts, _CHUNK, _room(features.width, memory), grams)
    by_prompts = _PromptProducts.plan(features, size, memory)
    by_neurons = _NeuronProducts.plan(features, size, memory)
    return by_prompts if by_prompts.cost < by_neurons.cost else by_neurons


def _cka(features: _Features, memory: float) -> Doubles:
    """Return the debiased CKA of every pair of layers, (layers, layers), from their features."""
    return _cheaper(features, memory).sums().cka(features.prompts)
