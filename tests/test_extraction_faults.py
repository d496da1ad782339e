"""Extractions to disk with NaN, bad prompts, a full disk or too little memory."""

import resource
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from extractions import CLOSE, SITES, random_prompts, store
from stored import assert_same

from neuroscope.errors import NonfiniteError, PromptError, ResourceError
from neuroscope.extraction.extract import extract
from neuroscope.extraction.finite import FiniteCheck
from neuroscope.extraction.models import load_model
from neuroscope.prompt_files import PromptFile
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations
from neuroscope.studies.store.store import extract_to


@pytest.fixture
def model(family_folder):
    return load_model(str(family_folder("bert")))


@pytest.fixture
def nan_model(model):
    """Return a model whose second layer gives NaN at neuron 3 of its MLP's output."""
    with torch.no_grad():
        model.layer(1).get_submodule("output.dense").bias[3] = float("nan")
    return model


def count_passes(model):
    """Return a list that grows with each forward pass of a model."""
    passes = []
    model.module.register_forward_pre_hook(lambda *_: passes.append(1))
    return passes


def test_nonfinite_values_are_refused_or_counted(nan_model, folder):
    sites, prompts = ["mlp_act", "mlp_out"], random_prompts(20)
    with pytest.raises(NonfiniteError, match=r"mlp_out\.1 .*'\d+'"):
        store(folder, nan_model, prompts, sites)
    stored = store(folder, nan_model, prompts, sites, allow_nonfinite=True)
    assert stored.manifest.nonfinite == {"mlp_out.1": 20}
    values = read_activations(folder)["mlp_out.1"]
    assert np.isnan(values[:, 3]).all()
    assert np.isfinite(np.delete(values, 3, axis=1)).all()
    with pytest.raises(NonfiniteError, match=r"mlp_out\.1 .*\b20\b") as raised:
        store(folder, nan_model, prompts, sites)
    assert "allow_nonfinite" in [option.name for option in raised.value.options]


def test_stored_nonfinite_values_are_refused_before_more_is_computed(nan_model, folder):
    prompts = random_prompts(40)
    store(folder, nan_model, prompts, ["mlp_out"], allow_nonfinite=True)
    first = len(pq.read_table(folder / "mlp_out.1" / "part-00000.parquet"))
    (folder / "mlp_out.0" / "part-00000.parquet").unlink()
    passes = count_passes(nan_model)
    with pytest.raises(NonfiniteError, match=rf"mlp_out\.1 .*\b{40 - first}\b"):
        store(folder, nan_model, prompts, ["mlp_out"])
    assert passes == []


def test_an_overflowing_sum_of_finite_values_is_accepted(model):
    check = FiniteCheck(model, ["a", "b"])
    check(Site("mlp_act", 0), torch.full((2, 4), 1e38), np.arange(2))
    assert check.counts == {}


def test_a_prompt_file_that_shrinks_or_disappears_is_refused(model, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(random_prompts(40).texts))
    prompts = PromptFile.open(path)
    path.write_text("\n".join(random_prompts(10).texts))
    with pytest.raises(PromptError):
        extract_to(tmp_path / "acts", model, prompts, SITES)
    path.unlink()
    with pytest.raises(PromptError, match=str(path)):
        extract_to(tmp_path / "acts", model, prompts, SITES)
    assert not (tmp_path / "acts").exists()


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_computed(model, folder):
    passes = count_passes(model)
    with pytest.raises(PromptError, match=r"number 31\b.*\b102\b"):
        extract_to(folder, model, [*random_prompts(30).texts, "cat " * 100], SITES)
    assert passes == []
    assert not folder.exists()


def test_an_extraction_larger_than_the_disk_is_refused_before_it_starts(model, folder, monkeypatch):
    monkeypatch.setattr("neuroscope.storage.disk.free_bytes", lambda folder: 400_000)
    passes = count_passes(model)
    with pytest.raises(ResourceError, match=r"2\d\d.\d kB .* 400\.0 kB") as raised:
        extract_to(folder, model, random_prompts(300), SITES)
    assert (passes, raised.value.options) == ([], ())
    with pytest.raises(ResourceError) as raised:
        extract_to(folder, model, random_prompts(300), SITES, pool="none")
    assert [option.name for option in raised.value.options] == ["pool"]
    assert not folder.exists()
    extract_to(folder, model, random_prompts(2), "resid_post", 0)


def test_a_full_disk_keeps_finished_parts(model, folder):
    """The kernel's limit on the size of files makes writing fail, as on a full disk."""
    prompts = random_prompts(20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
        with pytest.raises(ResourceError, match=str(folder)):
            store(folder, model, prompts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(folder.rglob(".*"))
    assert not any(module._forward_hooks for module in model.module.modules())
    assert store(folder, model, prompts).computed == 20
    in_memory = extract(model, prompts, SITES)
    assert_same(read_activations(folder), in_memory, provenance=False, atol=CLOSE)


def test_memory_that_cannot_be_allocated_is_reported(model, monkeypatch):
    def fail(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", fail)
    with pytest.raises(ResourceError, match=r"0\.1 kB"):
        extract(model, ["the cat"])
