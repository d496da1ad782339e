"""Extractions to disk that meet NaN, bad prompts, a full disk or too little memory."""

import resource
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from extractions import CLOSE, SITES, prompts_of, store
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
def spoilt(model):
    """A model whose second layer gives NaN at neuron 3 of its MLP's output."""
    with torch.no_grad():
        model.layer(1).get_submodule("output.dense").bias[3] = float("nan")
    return model


def passes(model):
    """A list that grows with each pass of a model."""
    ran = []
    model.module.register_forward_pre_hook(lambda *_: ran.append(1))
    return ran


def test_nonfinite_values_are_refused_or_counted(spoilt, folder):
    sites, prompts = ["mlp_act", "mlp_out"], prompts_of(20)
    with pytest.raises(NonfiniteError, match=r"mlp_out\.1 .*'\d+'"):
        store(folder, spoilt, prompts, sites)
    stored = store(folder, spoilt, prompts, sites, allow_nonfinite=True)
    assert stored.manifest.nonfinite == {"mlp_out.1": 20}
    values = read_activations(folder)["mlp_out.1"]
    assert np.isnan(values[:, 3]).all()
    assert np.isfinite(np.delete(values, 3, axis=1)).all()
    with pytest.raises(NonfiniteError, match=r"mlp_out\.1 .20 rows") as refused:
        store(folder, spoilt, prompts, sites)
    assert "allow_nonfinite" in [option.name for option in refused.value.options]


def test_stored_nonfinite_values_are_refused_before_more_is_computed(spoilt, folder):
    prompts = prompts_of(40)
    store(folder, spoilt, prompts, ["mlp_out"], allow_nonfinite=True)
    first = len(pq.read_table(folder / "mlp_out.1" / "part-00000.parquet"))
    (folder / "mlp_out.0" / "part-00000.parquet").unlink()
    ran = passes(spoilt)
    with pytest.raises(NonfiniteError, match=rf"mlp_out\.1 .{40 - first} rows"):
        store(folder, spoilt, prompts, ["mlp_out"])
    assert ran == []


def test_an_overflowing_sum_of_finite_values_is_accepted():
    check = FiniteCheck("tiny", ["a", "b"])
    check(Site("mlp_act", 0), torch.full((2, 4), 1e38), np.arange(2))
    assert check.counts == {}


def test_a_file_of_prompts_that_shrinks_or_vanishes_is_noticed(model, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(prompts_of(40).texts))
    prompts = PromptFile.open(path)
    path.write_text("\n".join(prompts_of(10).texts))
    with pytest.raises(PromptError):
        extract_to(tmp_path / "acts", model, prompts, SITES)
    path.unlink()
    with pytest.raises(PromptError, match=str(path)):
        extract_to(tmp_path / "acts", model, prompts, SITES)
    assert not (tmp_path / "acts").exists()


def test_a_prompt_that_is_too_long_is_found_before_anything_is_computed(model, folder):
    ran = passes(model)
    with pytest.raises(PromptError, match=r"'30' .*102 tokens"):
        extract_to(folder, model, [*prompts_of(30).texts, "cat " * 100], SITES)
    assert ran == []
    assert not folder.exists()


def test_what_does_not_fit_on_the_disk_is_refused_before_it_starts(model, folder, monkeypatch):
    monkeypatch.setattr("neuroscope.storage.disk.free_bytes", lambda folder: 400_000)
    ran = passes(model)
    with pytest.raises(ResourceError, match=r"2\d\d.\d kB .* 400\.0 kB") as refused:
        extract_to(folder, model, prompts_of(300), SITES)
    assert (ran, refused.value.options) == ([], ())
    with pytest.raises(ResourceError) as refused:
        extract_to(folder, model, prompts_of(300), SITES, pool="none")
    assert [option.name for option in refused.value.options] == ["pool"]
    assert not folder.exists()
    extract_to(folder, model, prompts_of(2), "resid_post", 0)


def test_a_full_disk_keeps_finished_parts(model, folder):
    """The kernel's limit on the size of files stands for the disk: writing really fails."""
    prompts = prompts_of(20)
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
    with pytest.raises(ResourceError, match=r"0\.1 kB.*Cannot allocate"):
        extract(model, ["the cat"])
