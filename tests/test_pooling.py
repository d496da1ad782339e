"""Pooling of single tensors, in every number format."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroscope.extraction.pooling import pooling
from neuroscope.options import Pool, choices

POOLS = choices(Pool)


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(1, 9)),
    pool=st.sampled_from(POOLS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 10),
)
def test_pooling_computes_in_float32(shape, pool, dtype, seed):
    random = np.random.default_rng(seed)
    x = torch.from_numpy(random.normal(size=shape).astype("f4")).to(dtype)
    kept = random.random(shape[:2]) < 0.6
    kept[:, random.integers(shape[1])] = True
    pooled = pooling(pool, torch.from_numpy(kept))(x)
    assert pooled.dtype == torch.float32
    rows = [values[flags] for values, flags in zip(x.double().numpy(), kept, strict=True)]
    reduce = {
        "mean": lambda row: row.mean(axis=0),
        "max": lambda row: row.max(axis=0),
        "first": lambda row: row[0],
        "last": lambda row: row[-1],
    }
    expected = np.concatenate(rows) if pool == "none" else np.stack([*map(reduce[pool], rows)])
    np.testing.assert_allclose(pooled.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_means_of_large_tensors_are_close_to_those_in_float64(dtype):
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(30, 300, generator=generator) < 0.6
    pool = pooling("mean", kept)  # of all sites of a batch, which differ in their neurons
    wide, narrow, widest = (
        torch.randn(30, 300, neurons, generator=generator).to(dtype) for neurons in (300, 50, 2000)
    )
    pooled = [pool(x) for x in (wide, narrow, widest, wide)]
    for values, x in zip(pooled, (wide, narrow, widest, wide), strict=True):
        rows = zip(x.double(), kept, strict=True)
        expected = torch.stack([tokens[flags].mean(dim=0) for tokens, flags in rows])
        torch.testing.assert_close(values.double(), expected, atol=2e-7, rtol=0)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tokens_that_are_left_out_may_have_any_value(pool, dtype):
    x = torch.tensor([[1.0], [3.0], [float("inf")], [float("nan")]], dtype=dtype)[None]
    pooled = pooling(pool, torch.tensor([[True, True, False, False]]))(x)
    expected = {"mean": [2], "max": [3], "first": [1], "last": [3], "none": [1, 3]}[pool]
    assert pooled.flatten().tolist() == expected
