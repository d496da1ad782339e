"""Extraction to disk gives the same values as extraction in memory."""

import re
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from extractions import CLOSE, SITES, random_prompts, spec_of, store
from stored import assert_same, visible_names

from neuroscope.errors import ModelError, NeuroscopeError, PromptError, ResourceError, StoreError
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.prompt_files import PromptFile
from neuroscope.storage.activation_store import read_activations
from neuroscope.storage.keys import Composition
from neuroscope.studies.store.spec import ExtractionSpec
from neuroscope.studies.store.store import extract_to, store_activations


@pytest.fixture(scope="module")
def model(family_folder):
    return load_model(str(family_folder("bert")))


@pytest.mark.parametrize("pool", ["mean", "max", "first", "last", "none"])
def test_values_on_disk_equal_those_in_memory(model, folder, pool):
    prompts = random_prompts(40)
    stored = store(folder, model, prompts, spec={"pool": pool, "token_rule": "all"})
    assert len(stored.manifest.parts) > 3
    assert stored.computed == 40
    in_memory = extract(model, prompts, SITES, pool=pool, token_rule="all")
    read = read_activations(stored.folder)
    assert_same(read, in_memory, provenance=False, atol=CLOSE)
    assert replace(read.provenance, created="") == replace(in_memory.provenance, created="")


def test_extract_to_takes_the_arguments_of_extract(model, folder):
    prompts = random_prompts(10)
    options = {"pool": "last", "token_rule": "all", "truncate": True, "budget": 100}
    stored = extract_to(folder, model, prompts, "mlp_act", -1, **options)
    in_memory = extract(model, prompts, "mlp_act", -1, **options)
    assert_same(read_activations(folder), in_memory, provenance=False, atol=CLOSE)
    assert stored.manifest.provenance.batch_tokens == 100
    assert stored.manifest.key.truncated


def test_a_second_request_is_answered_without_a_model(model, folder):
    first = extract_to(folder, model, random_prompts(10), SITES)

    def load():
        raise AssertionError("the model is loaded")

    again = store_activations(spec_of(model, random_prompts(10)), folder, load)
    assert (again.computed, again.manifest) == (0, first.manifest)
    (folder / "unfinished.json").touch()  # as if killed before it was removed
    with pytest.raises(StoreError, match="pool mean"):
        extract_to(folder, model, random_prompts(10), SITES, pool="max")
    assert store_activations(spec_of(model, random_prompts(10)), folder, load).computed == 0
    assert visible_names(folder) == {
        "manifest.json",
        "prompts",
        "tokens",
        *map(str, first.manifest.sites),
    }


def test_a_request_marks_the_folder_as_used(model, folder):
    stored = extract_to(folder, model, ["the cat"])
    path = stored.folder / "manifest.json"
    before = path.stat().st_mtime_ns
    extract_to(folder, model, ["the cat"])
    assert path.stat().st_mtime_ns > before


@pytest.mark.parametrize("option", ["pool", "token_rule", "dtype", "attention"])
def test_unknown_options_are_refused_with_the_known_ones(model, option):
    with pytest.raises(NeuroscopeError, match=f"{option} 'nothing'"):
        spec_of(model, ["the cat"], **{option: "nothing"})
    with pytest.raises(TypeError):
        ExtractionSpec(model.checkpoint, random_prompts(1), (), "mean")


def test_a_prompt_file_gives_the_same_values_in_memory_and_on_disk(model, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "x", "text": "a dog", "topic": "pets"}\n{"text": "the cat"}\n')
    prompts = PromptFile.open(path)
    stored = extract_to(str(tmp_path / "acts"), model, prompts, SITES)
    in_memory = extract(model, prompts, SITES)
    assert_same(read_activations(str(stored.folder)), in_memory, provenance=False, atol=CLOSE)
    with pytest.raises(PromptError, match=re.escape(str(path))):
        extract_to(tmp_path / "more", model, path, SITES)


@pytest.mark.parametrize("name", ["run:1", "file:x", "~/acts"])
def test_folders_are_named_as_in_a_shell(model, tmp_path, monkeypatch, name):
    """Libraries that read the files take some of these names for addresses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    stored = extract_to(name, model, ["the cat"])
    assert stored.folder == tmp_path / name.replace("~", "user")
    assert extract_to(name, model, ["the cat"]).computed == 0
    in_memory = extract(model, ["the cat"])
    assert_same(read_activations(name), in_memory, provenance=False, atol=CLOSE)
    assert visible_names(tmp_path) == {name.replace("~/acts", "user")}


def test_reprs_are_short(model, folder):
    """Their length does not depend on the number of prompts."""
    stored = extract_to(folder, model, random_prompts(200), SITES)
    assert len(repr(stored)) < 200
    read = read_activations(stored.folder)
    assert len(repr(read)) < 200 and "200 prompts" in repr(read)
    assert len(repr(read.prompts)) < 1000


def test_progress_reports_prompts_and_bytes(model, folder):
    reports = []
    store(folder, model, random_prompts(40), progress=lambda *report: reports.append(report))
    reading = [done for task, done, _ in reports if task == "read prompts"]
    extracting = [(task, done) for task, done, _ in reports if task.startswith("extract")]
    assert reading == sorted(reading)
    assert [done for _, done in extracting] == sorted(done for _, done in extracting)
    assert extracting[-1][1] == 40
    sizes = [float(re.search(r", (\d+\.\d) kB written$", task)[1]) for task, _ in extracting]
    assert sizes == sorted(sizes) and sizes[-1] > sizes[0] > 0
    assert {total for *_, total in reports} == {40}


def test_a_streamed_model_reads_its_weights_once_for_all_prompts(family_folder, tmp_path):
    folder, prompts = str(family_folder("mistral")), random_prompts(40)
    streamed = load_model(folder, memory="stream")
    before = streamed.stream.bytes_read
    stored = extract_to(tmp_path / "acts", streamed, prompts, SITES, budget=50)
    layers = sum(
        weight.nbytes
        for name, weight in load_model(folder).module.state_dict().items()
        if name.startswith("layers.")
    )
    assert stored.manifest.parts == (40,)
    assert streamed.stream.bytes_read - before == layers
    in_memory = extract(load_model(folder), prompts, SITES)
    assert_same(read_activations(stored.folder), in_memory, provenance=False, atol=1e-5)


def test_a_folder_continues_with_its_budget_unless_on_another_device(model, folder):
    """The budget of a GPU would be too large for a CPU."""
    prompts = random_prompts(20)
    stored = extract_to(folder, model, prompts, budget=64)
    for device, tokens in (("cpu", 64), ("cuda:0", 2048)):
        provenance = replace(stored.manifest.provenance, device=device)
        replace(stored.manifest, provenance=provenance).write(folder / "manifest.json")
        (folder / "resid_post.0" / "part-00000.parquet").unlink(missing_ok=True)
        assert extract_to(folder, model, prompts).manifest.latest.batch_tokens == tokens


class OutOfMemory:
    """Make the first `times` passes over several prompts run out of memory."""

    def __init__(self, model, times):
        self.remaining = times
        self._hook = model.module.register_forward_pre_hook(self.fail, with_kwargs=True)

    def fail(self, module, args, inputs):
        if self.remaining and len(inputs["input_ids"]) > 1:
            self.remaining -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._hook.remove()


def test_running_out_of_memory_in_one_part_does_not_change_later_parts(model, tmp_path):
    """Otherwise an interruption would change the values of later parts."""
    prompts = random_prompts(40)
    with OutOfMemory(model, times=1) as memory:
        first = store(tmp_path / "first", model, prompts)
    assert memory.remaining == 0
    assert first.manifest.provenance.batch_tokens == 2048
    second = store(tmp_path / "second", model, prompts)
    for number in range(1, len(first.manifest.parts)):
        name = f"resid_post.1/part-{number:05d}.parquet"
        assert pq.read_table(first.folder / name).equals(pq.read_table(second.folder / name))


def composed(**options):
    return {"composition": Composition(**{"batch_tokens": 100} | options)}


def test_a_composition_determines_the_budget_and_the_grouping(model, tmp_path):
    """Prompts with other neighbours in their batch differ in the last bits at most."""
    batches = []
    hook = model.module.register_forward_pre_hook(
        lambda module, args, inputs: batches.append(inputs["input_ids"].tolist()),
        with_kwargs=True,
    )
    prompts, stored, inputs = random_prompts(40), {}, {}
    for shuffle in (None, 1, 2):
        batches.clear()
        spec = composed(shuffle=shuffle)
        stored[shuffle] = store(tmp_path / str(shuffle), model, prompts, spec=spec)
        inputs[shuffle] = list(batches)
    hook.remove()
    assert all(
        sum(map(len, rows)) <= 100 or len(rows) == 1 for run in inputs.values() for rows in run
    )
    assert inputs[None] != inputs[1] != inputs[2]
    assert len({acts.manifest.key.digest for acts in stored.values()}) == 3
    by_length = read_activations(stored[None].folder)
    for shuffle in (1, 2):
        at_random = read_activations(stored[shuffle].folder)
        assert_same(at_random, by_length, provenance=False, atol=CLOSE)
    assert stored[1].manifest.provenance.batch_tokens == 100


def test_a_composition_that_cannot_be_used_is_refused(model, folder):
    with pytest.raises(ModelError, match="left") as raised:
        store(folder, model, random_prompts(20), spec=composed(padding_side="left"))
    assert raised.value.options[0].in_python == "padding_side='left'"
    with pytest.raises(NeuroscopeError, match="64"):
        store(folder, model, random_prompts(20), spec=composed(), budget=64)
    with OutOfMemory(model, times=1), pytest.raises(ResourceError, match=r"\b100\b"):
        store(folder, model, random_prompts(20), spec=composed())
    assert store(folder, model, random_prompts(20), spec=composed(), budget=100).computed == 20


def test_a_left_padding_model_fits_its_composition(family_folder, folder):
    model = load_model(str(family_folder("llama")), padding_side="left")
    stored = store(folder, model, random_prompts(20), spec=composed(padding_side="left"))
    assert stored.manifest.key.composition == Composition(100, None, "left")
    in_memory = extract(model, random_prompts(20), SITES)
    assert_same(read_activations(folder), in_memory, provenance=False, atol=CLOSE)
