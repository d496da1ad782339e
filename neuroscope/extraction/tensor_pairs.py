"""Comparison of one tensor in two files: its bytes, and the norm and rank of the difference."""

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ModelError
from neuroscope.extraction.weights import DTYPES, StoredTensor

if TYPE_CHECKING:
    import torch

FOLD = 512
"""Rows and columns to which a difference is folded before its singular values are computed."""

_SHARE = 0.99  # of the squared norm of a difference, which its rank accounts for
_READ = 2**21  # bytes of each file that are compared at once
_VALUES = 2**20  # values of each file that are subtracted at once


@dataclass(frozen=True)
class TensorPair:
    """First values of two tensors, at the same positions; all values if the shapes are equal."""

    base: StoredTensor
    candidate: StoredTensor
    rows: int
    """Number of rows that are compared: positions along the first dimension."""

    @property
    def size(self) -> int:
        """Number of bytes that are compared, if the number formats are equal."""
        rows = self.base.shape[0] if self.base.shape else 1
        return self.base.size * self.rows // max(1, rows)

    @property
    def same_format(self) -> bool:
        """Whether the number formats are equal."""
        return self.base.dtype == self.candidate.dtype

    @property
    def same_place(self) -> bool:
        """Whether both tensors are the same bytes of the same file, perhaps through links."""
        files = self.base.file, self.candidate.file
        return self.base.start == self.candidate.start and os.path.samefile(*files)


def equal_bytes(pair: TensorPair, start: int, stop: int) -> bool:
    """Return whether bytes `start` to `stop` of two tensors are equal.

    Raises:
        ModelError: a file cannot be read.
    """
    words = -(-min(_READ, stop - start) // 8)  # 64-bit words are compared fastest
    ours, theirs = np.zeros(words, np.uint64), np.zeros(words, np.uint64)
    with _opened(pair.base) as base, _opened(pair.candidate) as candidate:
        for offset in range(start, stop, _READ):
            size = min(_READ, stop - offset)
            _fill(base, pair.base, offset, ours.view(np.uint8)[:size])
            _fill(candidate, pair.candidate, offset, theirs.view(np.uint8)[:size])
            # what follows the last bytes is left from the bytes before, which were equal
            if not np.array_equal(ours, theirs):
                return False
    return True


def sha256_of(tensor: StoredTensor) -> str:
    """Return the SHA-256 of the bytes of a tensor.

    Raises:
        ModelError: the file cannot be read.
    """
    digest, buffer = hashlib.sha256(), np.zeros(_READ, np.uint8)
    with _opened(tensor) as file:
        for offset in range(0, tensor.size, _READ):
            part = buffer[: min(_READ, tensor.size - offset)]
            _fill(file, tensor, offset, part)
            digest.update(part.data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Difference:
    """Difference between the values of two tensors; norms are Frobenius norms."""

    change_norm: float | None
    """Norm of candidate - base; None if a value is not finite."""
    base_norm: float | None
    """Norm of the base; None if a value is not finite."""
    converted: bool
    """Whether the candidate has the base's values, converted to its own number format."""
    nonfinite: tuple[str, ...]
    """Which of `base` and `candidate` contain NaN or infinity."""
    rank: int | None
    """Number of singular values that hold 99 % of the difference's squared norm, at most `FOLD`;
    None if the tensors are not matrices, or do not differ by finite values."""


def measure(pair: TensorPair) -> Difference:
    """Return the difference between two tensors in floating-point formats, summed in float64.

    The rank of a difference of at most 512 x 512 is exact. The rows and columns of a larger one
    are added up in 512 groups, with random signs (a count sketch: Clarkson & Woodruff 2013,
    arXiv:1207.6365). That keeps the squared norm in expectation and never increases the number of
    singular values that differ from zero, and its cost grows only with the number of values.

    Rounding to bfloat16 adds a difference of full rank, of about 0.16 % of the norm of the base. It
    hides the low rank of a change below about 2 % of that norm.

    Raises:
        ModelError: a file cannot be read.
    """
    sums = _Sums()
    fold = _Fold(pair.base.shape[1]) if len(pair.base.shape) == 2 else None
    chunks = zip(_chunks(pair.base, pair.rows), _chunks(pair.candidate, pair.rows), strict=True)
    for (start, base), (_, candidate) in chunks:
        change = sums.add(base, candidate)
        if fold:
            fold.add(start, change)
    changed = fold and not sums.nonfinite and sums.change > 0
    return Difference(
        change_norm=None if sums.nonfinite else math.sqrt(sums.change),
        base_norm=None if "base" in sums.nonfinite else math.sqrt(sums.base),
        converted=sums.converted,
        nonfinite=tuple(sorted(sums.nonfinite)),
        rank=fold.rank() if fold and changed else None,
    )


def norm(tensor: StoredTensor, rows: int) -> float | None:
    """Return the Frobenius norm of the first rows of a tensor; None if it is not finite.

    The tensor must be in a floating-point format.

    Raises:
        ModelError: the file cannot be read.
    """
    squares = 0.0
    for _, chunk in _chunks(tensor, rows):
        values = chunk.double().ravel()
        squares += float(values.dot(values))
    return math.sqrt(squares) if math.isfinite(squares) else None


@dataclass
class _Sums:
    """Sums over the chunks of two tensors."""

    change: float = 0.0
    base: float = 0.0
    converted: bool = True
    nonfinite: set[str] = field(default_factory=set)

    def add(self, base: "torch.Tensor", candidate: "torch.Tensor") -> "torch.Tensor":
        """Add one chunk of both tensors; return candidate - base in float64."""
        import torch

        self.converted &= torch.equal(base.to(candidate.dtype), candidate)
        old, new = base.double(), candidate.double()
        change = new - old
        squares = float(old.ravel().dot(old.ravel())), float(change.ravel().dot(change.ravel()))
        if not all(map(math.isfinite, squares)):
            sides = {"base": old, "candidate": new}
            self.nonfinite |= {side for side, x in sides.items() if not x.isfinite().all()}
        self.base += squares[0]
        self.change += squares[1]
        return change


class _Fold:
    """Sum of the rows and columns of a matrix in at most `FOLD` groups, with random signs."""

    def __init__(self, width: int):
        import torch

        self._random = torch.Generator().manual_seed(0)
        self._signs = self._draw(width)
        self._sums = torch.zeros(FOLD, min(width, FOLD), dtype=torch.float64)

    def add(self, start: int, rows: "torch.Tensor") -> None:
        """Add rows of the matrix, (rows, width), of which the first has the number `start`."""
        import torch

        signed, narrow = rows * self._signs, rows.new_zeros(len(rows), self._sums.shape[1])
        for columns in torch.split(signed, FOLD, dim=1):
            narrow[:, : columns.shape[1]] += columns
        groups = torch.arange(start, start + len(rows)) % FOLD
        self._sums.index_add_(0, groups, narrow * self._draw(len(rows))[:, None])

    def rank(self) -> int:
        """Return the number of singular values that hold 99 % of the squared norm."""
        import torch

        squares = torch.linalg.svdvals(self._sums).square().cumsum(0)
        return int((squares < _SHARE * squares[-1]).sum()) + 1

    def _draw(self, count: int) -> "torch.Tensor":
        """Return `count` random signs, -1 or 1."""
        import torch

        return torch.randint(2, (count,), generator=self._random, dtype=torch.float64) * 2 - 1


def _chunks(tensor: StoredTensor, rows: int) -> Iterator[tuple[int, "torch.Tensor"]]:
    """Yield the first rows of a tensor, as the number of a row and (rows, width) from there on."""
    import torch

    width, dtype = math.prod(tensor.shape[1:]), getattr(torch, DTYPES[tensor.dtype])
    step = max(1, _VALUES // max(1, width))
    with _opened(tensor) as file:
        for start in range(0, rows if width else 0, step):
            chunk = torch.empty(min(step, rows - start), width, dtype=dtype)
            buffer = chunk.view(-1).view(torch.uint8).numpy()
            _fill(file, tensor, start * width * dtype.itemsize, buffer)
            yield start, chunk


def _opened(tensor: StoredTensor) -> BinaryIO:
    """Open the file of a tensor."""
    try:
        return tensor.file.open("rb")
    except OSError as error:
        raise _unreadable(tensor, str(error)) from error


def _fill(file: BinaryIO, tensor: StoredTensor, offset: int, buffer: "NDArray[np.uint8]") -> None:
    """Read bytes of a tensor, from byte `offset` on, until the buffer is full."""
    try:
        file.seek(tensor.start + offset)
        size = file.readinto(buffer.data)  # type: ignore[attr-defined]
    except OSError as error:
        raise _unreadable(tensor, str(error)) from error
    if size != buffer.nbytes:
        raise _unreadable(tensor, "it is truncated")


def _unreadable(tensor: StoredTensor, reason: str) -> ModelError:
    """Return the error about a file of weights that cannot be read."""
    return ModelError(
        f"weights cannot be compared: {tensor.file} cannot be read ({reason})",
        remedy="copy or download the files of the model again",
    )
