"""Bytes, norms and ranks of differences between tensors that are larger than one chunk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from neuroscope.errors import ModelError
from neuroscope.extraction.tensor_pairs import TensorPair, equal_bytes, measure, norm
from neuroscope.extraction.weights import StoredTensor
from neuroscope.files import file_version

NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@pytest.fixture
def pair_of(tmp_path):
    """Return a function that stores two tensors and returns them as a pair."""

    def stored(name, values):
        file = tmp_path / name
        save_file({"values": values}, file)
        start, shape, dtype = file.stat().st_size - values.nbytes, values.shape, NAMES[values.dtype]
        version = file_version(file.stat())
        return StoredTensor(file, start, values.nbytes, tuple(shape), dtype, version)

    def pair(base, candidate):
        rows = min(len(base), len(candidate)) if base.ndim else 1
        return TensorPair(stored("base", base), stored("candidate", candidate), rows)

    return pair


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def low_rank(rows, columns, rank):
    """Return a matrix with `rank` singular values of 1."""
    left, right = (torch.linalg.qr(normal(size, rank)).Q for size in (rows, columns))
    return left @ right.T


@pytest.mark.parametrize("position", [None, 0, 2**21 // 2, 3_000_000, 3_000_002])
def test_one_different_byte_is_noticed(position, pair_of):
    base = normal(3_000_003).bfloat16()  # 6 MB, and no multiple of 8 bytes
    candidate = base.clone()
    if position is not None:
        candidate[position] += 1
    pair = pair_of(base, candidate)
    assert equal_bytes(pair, 0, pair.size) is (position is None)
    assert equal_bytes(pair, 3_000_000, pair.size) is (position in (None, 0, 2**21 // 2))


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("shape", [(1500, 1000), (3_000_000,), (3, 5, 7), (2, 1_200_000), ()])
def test_norms_are_those_of_numpy(dtype, shape, pair_of):
    base, candidate = normal(*shape).to(dtype), (1.1 * normal(*shape)).to(dtype)
    measured = measure(pair_of(base, candidate))
    old, new = base.double().numpy(), candidate.double().numpy()
    assert measured.base_norm == pytest.approx(np.linalg.norm(old.ravel()), rel=1e-12)
    assert measured.change_norm == pytest.approx(np.linalg.norm((new - old).ravel()), rel=1e-12)
    assert measured.nonfinite == () and not measured.converted
    pair = pair_of(base, candidate)
    assert norm(pair.base, pair.rows) == pytest.approx(measured.base_norm, rel=1e-14)


def test_only_common_rows_are_compared(pair_of):
    base = normal(5, 8)
    pair = pair_of(base, torch.cat([base, normal(2, 8)]))
    assert pair.size == base.nbytes and equal_bytes(pair, 0, pair.size)
    assert measure(pair).change_norm == 0


def test_an_empty_tensor_is_equal(pair_of):
    pair = pair_of(torch.empty(0, 4), torch.empty(0, 4))
    assert pair.size == 0 and equal_bytes(pair, 0, 0)
    assert measure(pair).change_norm == norm(pair.base, 0) == 0


@pytest.mark.parametrize("shape", [(40, 60), (512, 30), (300, 300)])
def test_the_rank_of_a_small_matrix_is_exact(shape, pair_of):
    base, change = normal(*shape), normal(shape[1], *shape[:1]).T.contiguous()
    squares = np.square(np.linalg.svd(change.double().numpy(), compute_uv=False)).cumsum()
    expected = int((squares < 0.99 * squares[-1]).sum()) + 1
    assert measure(pair_of(torch.zeros(shape), change)).rank == expected
    assert measure(pair_of(base, base)).rank is None


@pytest.mark.parametrize("shape", [(2000, 700), (600, 5000), (1024, 1024)])
@pytest.mark.parametrize("rank", [1, 8, 32])
def test_the_rank_of_a_large_matrix_is_close(shape, rank, pair_of):
    base = normal(*shape)
    measured = measure(pair_of(base, base + low_rank(*shape, rank)))
    assert 0.9 * rank <= measured.rank <= rank
    assert measure(pair_of(base, base + 0.01 * normal(shape[1], shape[0]).T)).rank > 300


def test_a_file_that_changes_during_the_comparison_is_refused(pair_of):
    pair = pair_of(normal(100, 100), normal(100, 100))
    Path(pair.candidate.file).write_bytes(b"short")
    for compare in (measure, lambda pair: equal_bytes(pair, 0, pair.size)):
        with pytest.raises(ModelError, match=r"candidate.*truncated"):
            compare(pair)
    Path(pair.candidate.file).unlink()
    with pytest.raises(ModelError, match=str(pair.candidate.file)):
        measure(pair)
