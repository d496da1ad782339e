"""Extraction to disk: equal to that in memory, whatever happens on the way."""

import itertools
import multiprocessing
import os
import random
import re
import resource
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import WORDS

from neuroscope.errors import NonfiniteError, PromptError, ResourceError, StoreError
from neuroscope.extraction.extract import extract
from neuroscope.extraction.finite import FiniteCheck
from neuroscope.extraction.models import load_model
from neuroscope.prompt_files import PromptFile, read_prompts
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations
from neuroscope.studies.store import plan as extract_plan
from neuroscope.studies.store.plan import Estimate, ExtractionSpec
from neuroscope.studies.store.store import extract_to, store_activations

SITES = ["resid_post", "mlp_act"]
CLOSE = {"atol": 5e-5, "rtol": 0}


@pytest.fixture(scope="module")
def models(family_folder):
    """Right- and left-padding models of an encoder and a decoder."""
    return {
        (family, side): load_model(str(family_folder(family)), padding_side=side)
        for family in ("bert", "llama")
        for side in ("right", "left")
    }


def prompts_of(count, seed=0):
    words = random.Random(seed)
    return PromptSet.of(
        [" ".join(words.choices(WORDS, k=words.randint(1, 30))) for _ in range(count)]
    )


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of about seven prompts at two sites of a tiny model."""
    monkeypatch.setattr(extract_plan, "_PART_BYTES", 7 * ((2 * 32 + 2 * 48) * 4 + 17 * 256))
    monkeypatch.setattr(extract_plan, "_FULL_BATCHES", 0)


def assert_same(one, other, exact=False):
    assert (one.prompts, one.tokens, one.sites) == (other.prompts, other.tokens, other.sites)
    for site in one:
        for a, b in zip(one[site], other[site], strict=True):
            assert a.dtype == np.float32
            if exact:
                np.testing.assert_array_equal(a, b)
            else:
                np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.parametrize("pool", ["mean", "max", "first", "last", "none"])
def test_what_is_on_disk_is_what_is_in_memory(models, tmp_path, small_parts, pool):
    model, prompts = models["bert", "right"], prompts_of(40)
    stored = extract_to(tmp_path / "acts", model, prompts, SITES, pool=pool, token_rule="all")
    assert len(stored.manifest.parts) > 3
    assert stored.computed == 40
    in_memory = extract(model, prompts, SITES, pool=pool, token_rule="all")
    found = read_activations(stored.folder)
    assert_same(found, in_memory)
    created = {"created": ""}
    one, other = found.provenance.to_dict() | created, in_memory.provenance.to_dict() | created
    assert one == other


texts = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join), min_size=1, max_size=25
)


@settings(max_examples=40, deadline=None)
@given(
    texts=texts,
    family=st.sampled_from(["bert", "llama"]),
    side=st.sampled_from(["right", "left"]),
    budget=st.one_of(st.none(), st.integers(1, 400)),
    per_part=st.integers(1, 30),
    tokens_per_part=st.integers(1, 500),
    pool=st.sampled_from(["mean", "max", "first", "last", "none"]),
    rule=st.sampled_from(["content", "all"]),
    killed=st.integers(0, 80),
)
def test_any_prompts_budget_padding_and_kill_point_give_the_same(
    models, texts, family, side, budget, per_part, tokens_per_part, pool, rule, killed
):
    """The values are those of each prompt alone, also after being cut short at any file."""
    model, prompts = models[family, side], PromptSet.of(texts)
    options = {"pool": pool, "token_rule": rule, "budget": budget}
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Estimate, "prompts_per_part", lambda *_: per_part)
        patch.setattr(Estimate, "tokens_per_part", lambda *_: tokens_per_part)
        kill_at_file(patch, killed)
        cut, whole = Path(root) / "cut", Path(root) / "whole"
        try:
            extract_to(cut, model, prompts, SITES, **options)
        except Killed:
            stop_killing(patch)
            extract_to(cut, model, prompts, SITES, **options)
        stop_killing(patch)
        extract_to(whole, model, prompts, SITES, **options)
        assert_same(read_activations(cut), read_activations(whole), exact=True)
        found = read_activations(whole)
    for index in random.Random(0).sample(range(len(texts)), min(3, len(texts))):
        alone = extract(models[family, "right"], [texts[index]], SITES, pool=pool, token_rule=rule)
        for site in alone:
            np.testing.assert_allclose(found[site][index], alone[site][0], **CLOSE)


class Killed(BaseException):
    """Stands for the end of the process."""


RENAME = os.replace


def kill_at_file(patch, number):
    """Ends the process, so to speak, when so many files have got their names."""
    count = itertools.count()

    def replace(source, target):
        if next(count) == number:
            raise Killed
        RENAME(source, target)

    patch.setattr(os, "replace", replace)


def stop_killing(patch):
    patch.setattr(os, "replace", RENAME)


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["neuroscope.studies.store.store", "transformers.modeling_layers"])


def extract_in_a_process(model, file, folder, result):
    """What the child does; it puts the number of computed prompts into `result`."""
    extract_plan._PART_BYTES, extract_plan._FULL_BATCHES = 150_000, 0
    loaded, prompts = load_model(model, device="cpu:1"), PromptFile.open(file)
    result.value = -1
    result.value = extract_to(folder, loaded, prompts, SITES, budget=64).computed


def start(model, file, folder):
    """A process that has loaded the model, and where it puts its result."""
    result = PROCESSES.Value("i", -2)
    process = PROCESSES.Process(
        target=extract_in_a_process, args=(str(model), file, folder, result)
    )
    process.start()
    while result.value == -2 and process.is_alive():
        time.sleep(0.01)
    return process, result


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(prompts_of(1000).texts))
    return path


def whole_parts(folder):
    files = folder.rglob("[!.]*.parquet")
    return {file: file.stat().st_mtime_ns for file in files if ".inputs" not in file.parts}


def test_killed_again_and_again_it_ends_as_if_undisturbed(family_folder, tmp_path, prompt_file):
    """SIGKILL at random moments; finished parts are not written twice."""
    model, cut, whole = family_folder("bert"), tmp_path / "cut", tmp_path / "whole"
    undisturbed, result = start(model, prompt_file, whole)
    began = time.monotonic()
    undisturbed.join()
    longest = time.monotonic() - began
    assert result.value == 1000
    moment = random.Random(7)
    kills = 0
    for _ in range(8):
        before = whole_parts(cut)
        process, _ = start(model, prompt_file, cut)
        time.sleep(moment.uniform(0, 0.4 * longest))
        process.kill()
        process.join()
        kills += not (cut / "manifest.json").exists()
        assert before.items() <= whole_parts(cut).items()
    assert kills > 0
    before = whole_parts(cut)
    process, _ = start(model, prompt_file, cut)
    process.join()
    assert process.exitcode == 0
    assert before.items() <= whole_parts(cut).items()
    assert_same(read_activations(cut), read_activations(whole), exact=True)
    assert not list(cut.rglob(".*"))


def test_two_processes_with_the_same_key_share_the_work(family_folder, tmp_path, prompt_file):
    model, folder = family_folder("bert"), tmp_path / "acts"
    started = [start(model, prompt_file, folder) for _ in range(2)]
    for process, _ in started:
        process.join()
    assert sorted(result.value for _, result in started) == [0, 1000]
    in_memory = extract(load_model(str(model)), read_prompts(prompt_file), SITES)
    assert_same(read_activations(folder), in_memory)


def test_a_second_request_is_answered_without_a_model(models, tmp_path):
    model, prompts = models["bert", "right"], prompts_of(10)
    first = extract_to(tmp_path / "acts", model, prompts, SITES)
    wanted = ExtractionSpec(model.checkpoint, prompts, first.manifest.sites)

    def load():
        raise AssertionError("the model is asked for")

    again = store_activations(wanted, tmp_path / "acts", load)
    assert (again.computed, again.manifest) == (0, first.manifest)
    with pytest.raises(StoreError, match="holds other activations"):
        extract_to(tmp_path / "acts", model, prompts, SITES, pool="max")


def spoil(model, layer=1):
    with torch.no_grad():
        model.layer(layer).get_submodule("output.dense").bias[3] = float("nan")


def test_values_that_are_not_finite_are_refused_or_counted(family_folder, tmp_path, small_parts):
    model, prompts = load_model(str(family_folder("bert"))), prompts_of(20)
    spoil(model)
    folder = tmp_path / "acts"
    with pytest.raises(NonfiniteError, match=r"'.*' gives values .* at mlp_out.1 for prompt '\d+'"):
        extract_to(folder, model, prompts, ["mlp_act", "mlp_out"])
    stored = extract_to(folder, model, prompts, ["mlp_act", "mlp_out"], allow_nonfinite=True)
    assert stored.manifest.nonfinite == {"mlp_out.1": 20}
    values = read_activations(folder)["mlp_out.1"]
    assert np.isnan(values[:, 3]).all()
    assert np.isfinite(np.delete(values, 3, axis=1)).all()
    with pytest.raises(NonfiniteError, match=r"not finite at mlp_out.1 .20 rows.*allow-nonfinite"):
        extract_to(folder, model, prompts, ["mlp_act", "mlp_out"])


def test_noted_values_that_are_not_finite_are_refused_before_more_is_computed(
    family_folder, tmp_path, small_parts
):
    model, prompts = load_model(str(family_folder("bert"))), prompts_of(40)
    spoil(model)
    extract_to(tmp_path / "acts", model, prompts, "mlp_out", allow_nonfinite=True)
    (tmp_path / "acts" / "mlp_out.0" / "part-00000.parquet").unlink()
    ran = []
    model.module.register_forward_pre_hook(lambda *_: ran.append(1))
    kept = 40 - len(pq.read_table(tmp_path / "acts" / "mlp_out.1" / "part-00000.parquet"))
    with pytest.raises(NonfiniteError, match=rf"not finite at mlp_out.1 .{kept} rows"):
        extract_to(tmp_path / "acts", model, prompts, "mlp_out")
    assert ran == []


def test_a_sum_that_is_too_large_is_no_value_that_is_not_finite():
    check = FiniteCheck("tiny", ["a", "b"])
    check(Site("mlp_act", 0), torch.full((2, 4), 1e38), np.arange(2))
    assert check.counts == {}


def test_a_file_of_prompts_that_shrinks_or_goes_is_told(models, tmp_path, small_parts):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(prompts_of(40).texts))
    prompts = PromptFile.open(path)
    path.write_text("\n".join(prompts_of(10).texts))
    with pytest.raises(PromptError, match="changed while they were read: run the extraction again"):
        extract_to(tmp_path / "acts", models["bert", "right"], prompts, SITES)
    path.unlink()
    with pytest.raises(PromptError, match=r"prompts.txt cannot be read: No such file"):
        extract_to(tmp_path / "acts", models["bert", "right"], prompts, SITES)
    assert not (tmp_path / "acts").exists()


def test_a_file_of_prompts_is_read_in_memory_and_to_disk_alike(models, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "x", "text": "a dog", "topic": "pets"}\n{"text": "the cat"}\n')
    prompts, model = PromptFile.open(path), models["bert", "right"]
    stored = extract_to(str(tmp_path / "acts"), model, prompts, SITES)
    assert_same(read_activations(str(stored.folder)), extract(model, prompts, SITES))
    with pytest.raises(PromptError, match=r"PromptFile.open\(path\)"):
        extract_to(tmp_path / "more", model, path, SITES)


def test_parts_are_bounded_by_memory_and_by_the_work_that_a_kill_may_cost(models, monkeypatch):
    def per_part(tokens_per_prompt, batch_tokens=2048, pool="mean"):
        wanted = ExtractionSpec(model.checkpoint, prompts, (Site("resid_post", 0),), pool)
        estimate = Estimate(wanted, model, tokens_per_prompt * len(prompts), tokens_per_prompt)
        return estimate.prompts_per_part(batch_tokens)

    model, prompts = models["bert", "right"], range(10**9)
    few, many = per_part(10), per_part(1000)
    assert few == int(128e6 / (32 * 4 + 10 * 256))
    assert many * 1000 * 256 < 128e6
    assert per_part(1000, pool="none") == int(128e6 / (1000 * (32 * 4 + 256)))
    assert per_part(1000, batch_tokens=300_000) == 1200  # four batches
    assert per_part(1000, batch_tokens=10**6) == int(512e6 / (32 * 4 + 1000 * 256))
    weights = sum(one.numel() for index in (0, 1) for one in model.layer(index).parameters())
    monkeypatch.setattr(extract_plan, "_PART_WORK", {"cpu": 2 * weights * 1000 * 77.5})
    assert per_part(1000) == 77


@pytest.mark.parametrize("order", ["short first", "long first", "mixed"])
def test_a_part_has_no_more_tokens_where_long_prompts_stand_together(
    models, tmp_path, monkeypatch, order
):
    texts = ["dog"] * 300 + ["the cat sits on the mat . " * 8] * 30
    if order == "mixed":
        random.Random(0).shuffle(texts)
    model, prompts = models["bert", "right"], PromptSet.of(texts[:: -1 if "long" in order else 1])
    monkeypatch.setattr(extract_plan, "_PART_BYTES", 40 * (32 + 32) * 4)
    monkeypatch.setattr(extract_plan, "_TOKEN_BYTES", 0)
    monkeypatch.setattr(extract_plan, "_FULL_BATCHES", 0)
    stored = extract_to(tmp_path / "acts", model, prompts, pool="none")
    rows = [len(pq.read_table(path)) for path in sorted(stored.folder.glob("resid_post.0/*"))]
    assert sum(rows) == 300 + 30 * 56
    assert max(rows) <= 1.5 * 40 + 58
    assert_same(read_activations(stored.folder), extract(model, prompts, pool="none"))


def test_a_folder_goes_on_with_its_budget_unless_it_is_another_device(models, tmp_path):
    """A graphics card's would be too large for a processor."""
    model, prompts, folder = models["bert", "right"], prompts_of(20), tmp_path / "acts"
    stored = extract_to(folder, model, prompts, budget=64)
    for device, tokens in (("cpu", 64), ("cuda:0", 2048)):
        provenance = replace(stored.manifest.provenance, device=device)
        replace(stored.manifest, provenance=provenance).write(folder / "manifest.json")
        (folder / "resid_post.0" / "part-00000.parquet").unlink(missing_ok=True)
        assert extract_to(folder, model, prompts).manifest.latest.batch_tokens == tokens


def test_what_memory_did_not_suffice_for_changes_no_later_part(models, tmp_path, small_parts):
    """Or a folder that was cut short would not be the same as one that was not."""
    model, prompts = models["bert", "right"], prompts_of(40)
    room = [1]  # passes of the first part that fail

    def fail(module, args, inputs):
        if room[0] and len(inputs["input_ids"]) > 1:
            room[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")

    watch = model.module.register_forward_pre_hook(fail, with_kwargs=True)
    whole = extract_to(tmp_path / "whole", model, prompts)
    watch.remove()
    assert room == [0]
    assert whole.manifest.provenance.batch_tokens == 2048
    other = extract_to(tmp_path / "other", model, prompts)
    for number in range(1, len(whole.manifest.parts)):
        name = f"resid_post.1/part-{number:05d}.parquet"
        assert pq.read_table(whole.folder / name).equals(pq.read_table(other.folder / name))


@pytest.mark.parametrize("name", ["run:1", "file:x", "~/acts"])
def test_folders_are_those_that_a_shell_would_name(models, tmp_path, monkeypatch, name):
    """A library that reads them takes some for addresses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    stored = extract_to(name, models["bert", "right"], ["the cat"])
    assert stored.folder == tmp_path / name.replace("~", "user")
    assert extract_to(name, models["bert", "right"], ["the cat"]).computed == 0
    assert_same(read_activations(name), extract(models["bert", "right"], ["the cat"]))
    assert {path.name for path in tmp_path.iterdir()} == {name.replace("~/acts", "user")}


def test_what_python_shows_of_activations_is_short(models, tmp_path):
    """However many prompts there are."""
    model = models["bert", "right"]
    stored = extract_to(tmp_path / "acts", model, prompts_of(200), SITES)
    assert len(repr(stored)) < 200
    found = read_activations(stored.folder)
    about = f"200 prompts, 4 sites, model {model.name!r}, pool 'mean'"
    assert repr(found) == f"Activations({about})"
    assert repr(found.tokens) == f"TokenBlock(200 prompts, {len(found.tokens.ids):,} tokens)"
    assert len(repr(found.prompts)) < 1000
    assert repr(PromptSet.of(["a", "b"])) == "PromptSet('a', 'b')"


def test_memory_that_cannot_be_had_is_told(models, monkeypatch):
    def refuse(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refuse)
    with pytest.raises(ResourceError, match=r"has not the 0.1 kB .*Cannot allocate.* to disk"):
        extract(models["bert", "right"], ["the cat"])


def test_a_prompt_that_cannot_be_read_is_found_before_anything_is_computed(
    models, tmp_path, small_parts
):
    texts = [*prompts_of(30).texts, "cat " * 100]
    ran = []
    model = models["bert", "right"]
    watch = model.module.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(PromptError, match=r"prompt '30' is 102 tokens long .*--truncate"):
        extract_to(tmp_path / "acts", model, texts, SITES)
    watch.remove()
    assert ran == []
    assert not (tmp_path / "acts").exists()


def test_what_the_disk_has_no_room_for_is_refused_before_it_starts(models, tmp_path, monkeypatch):
    monkeypatch.setattr("neuroscope.storage.disk.free_bytes", lambda folder: 400_000)
    with pytest.raises(
        ResourceError, match=r"needs about 2\d\d.\d kB, and 2.* to spare, but 400.0 kB are free"
    ):
        extract_to(tmp_path / "acts", models["bert", "right"], prompts_of(300), SITES)
    assert not (tmp_path / "acts").exists()
    extract_to(tmp_path / "acts", models["bert", "right"], prompts_of(2), "resid_post", 0)


def test_a_full_disk_keeps_finished_parts(family_folder, tmp_path, monkeypatch, small_parts):
    """A limit of the kernel on the size of files stands for the disk: writing really fails."""
    model, prompts = load_model(str(family_folder("bert"))), prompts_of(20)
    folder = tmp_path / "acts"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
        with pytest.raises(ResourceError, match=r"writing to .* failed .*finished parts are kept"):
            extract_to(folder, model, prompts, SITES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]
    hooks = [module._forward_hooks for module in model.module.modules()]
    assert not any(hooks)
    assert extract_to(folder, model, prompts, SITES).computed == 20
    assert_same(read_activations(folder), extract(model, prompts, SITES))


def test_progress_tells_prompts_and_bytes(models, tmp_path, small_parts):
    told = []
    extract_to(
        tmp_path / "acts",
        models["bert", "right"],
        prompts_of(40),
        SITES,
        progress=lambda *report: told.append(report),
    )
    reading = [done for task, done, _ in told if task == "read prompts"]
    extracting = [(task, done) for task, done, _ in told if task.startswith("extract")]
    assert reading == sorted(reading)
    assert [done for _, done in extracting] == sorted(done for _, done in extracting)
    assert extracting[-1][1] == 40
    assert all(re.search(r", \d+\.\d kB written$", task) for task, _ in extracting)
    assert {total for *_, total in told} == {40}


def test_a_streamed_model_reads_its_weights_once_for_all_prompts(family_folder, tmp_path):
    folder, prompts = str(family_folder("mistral")), prompts_of(40)
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
    ordinary = extract(load_model(folder), prompts, SITES)
    found = read_activations(stored.folder)
    for site in ordinary:
        np.testing.assert_allclose(found[site], ordinary[site], atol=1e-5)
