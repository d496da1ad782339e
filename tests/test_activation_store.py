"""Activations on disk."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroscope.activations import Activations, Provenance, check_pooling
from neuroscope.align import Tokens
from neuroscope.errors import ActivationError, NeuroscopeError, SiteError
from neuroscope.home import home as find_home
from neuroscope.prompts import Prompt, PromptSet
from neuroscope.sites import Site
from neuroscope.storage.activation_store import (
    MANIFEST,
    ActivationStore,
    activation_key,
    check_new_folder,
    read_activations,
    read_manifest,
    write_activations,
)

PROMPTS = PromptSet(
    (
        Prompt("z", "the cat", {"topic": "animals", "language": "en"}),
        Prompt("10", "Ünïcödé 猫\nof two lines"),
        Prompt("9", "x"),
    )
)
RESID, MLP = Site("resid_post", 0), Site("mlp_act", 11)


def frame(*words):
    ids = (101, *(len(word) + 1000 for word in words), 102)
    return Tokens(ids, ("[CLS]", *words, "[SEP]"), (True, *(False for _ in words), True))


TOKENS = (frame("the", "cat"), frame("Ün", "##ï", "猫", "of"), frame("x"))


def make(pool="mean", tokens="content", seed=0):
    """Activations of the prompts at two sites of different width."""
    provenance = Provenance(
        model="tiny",
        architecture="bert",
        fingerprint="f" * 64,
        revision=None,
        attention="sdpa",
        dtype="float32",
        device="cpu",
        padding_side="right",
        tokens=tokens,
        pool=pool,
        truncated=False,
        seed=0,
        prompts_digest=PROMPTS.digest,
        versions={"python": "3.11"},
    )
    random = np.random.default_rng(seed)
    kept = [len(one) - (2 if tokens == "content" else 0) for one in TOKENS]

    def array(neurons):
        if pool != "none":
            return random.normal(size=(len(PROMPTS), neurons)).astype(np.float32)
        return [random.normal(size=(count, neurons)).astype(np.float32) for count in kept]

    return Activations(PROMPTS, TOKENS, {RESID: array(8), MLP: array(5)}, provenance)


@pytest.fixture
def store(tmp_path):
    return ActivationStore(tmp_path / "activations")


def assert_same(one, other):
    assert (one.prompts, one.tokens, one.sites) == (other.prompts, other.tokens, other.sites)
    assert one.provenance == other.provenance
    for site in one:
        for a, b in zip(one[site], other[site], strict=True):
            assert a.dtype == b.dtype == np.float32
            np.testing.assert_array_equal(a, b)


def test_pooled_activations_read_back_exactly(store):
    acts = make("mean")
    read = read_activations(store.write("key", acts))
    assert_same(read, acts)
    assert read["resid_post.0"].shape == (3, 8)
    assert read.prompts.prompts[0].labels == {"topic": "animals", "language": "en"}


@pytest.mark.parametrize("rule", ["content", "all"])
def test_token_level_activations_read_back_exactly(store, rule):
    acts = make("none", rule)
    read = read_activations(store.write("key", acts))
    assert_same(read, acts)
    counts = [2, 4, 1] if rule == "content" else [4, 6, 3]
    assert [values.shape for values in read[MLP]] == [(count, 5) for count in counts]
    assert [read.kept_tokens(prompt).sum() for prompt in range(3)] == counts


def test_values_that_float32_can_hold_survive_to_the_last_bit(store):
    acts = make("max")
    extreme = np.array([[0.0, -0.0, 1e-45, 3.4e38, -1e-38, 1 / 3, 2**24 + 2, -1]] * 3, np.float32)
    kept = store.write("key", replace(acts, arrays={RESID: extreme}))
    assert read_activations(kept)[RESID].tobytes() == extreme.tobytes()


def test_an_array_that_is_not_contiguous_is_written_in_its_order(store):
    acts = make("mean")
    turned = np.asfortranarray(acts[RESID])[:, ::2]
    kept = store.write("key", replace(acts, arrays={RESID: turned}))
    np.testing.assert_array_equal(read_activations(kept)[RESID], turned)


def test_only_the_sites_asked_for_are_read(store):
    folder = store.write("key", make())
    shutil.rmtree(folder / "resid_post.0")
    assert read_activations(folder, [MLP]).sites == (MLP,)
    assert read_activations(folder, []).tokens == TOKENS


def test_pandas_reads_pooled_parts(store):
    acts = make("mean")
    table = pd.read_parquet(store.write("key", acts) / "resid_post.0")
    assert list(table.columns) == ["prompt", "values"]
    assert table["prompt"].tolist() == ["z", "10", "9"]
    np.testing.assert_array_equal(np.stack(table["values"]), acts[RESID])


def test_pandas_reads_token_level_parts_with_their_positions(store):
    acts = make("none")
    folder = store.write("key", acts)
    table = pd.read_parquet(folder / "mlp_act.11")
    assert list(table.columns) == ["prompt", "position", "values"]
    assert table["prompt"].tolist() == ["z"] * 2 + ["10"] * 4 + ["9"]
    assert table["position"].tolist() == [1, 2, 1, 2, 3, 4, 1]
    np.testing.assert_array_equal(np.stack(table["values"]), np.concatenate(acts[MLP]))
    words = pd.read_parquet(folder / "tokens.parquet").query("not special")
    assert words["text"].tolist() == ["the", "cat", "Ün", "##ï", "猫", "of", "x"]


def test_the_manifest_says_what_the_folder_holds(store):
    folder = store.write("key", make("none"))
    manifest = read_manifest(folder)
    assert (manifest["schema"], manifest["prompts"]) == (1, 3)
    assert manifest["sites"] == ["resid_post.0", "mlp_act.11"]
    assert Provenance(**manifest["provenance"]) == make("none").provenance


def test_a_key_is_found_once_it_is_written(store):
    assert store.find("key") is None
    folder = store.write("key", make())
    assert store.find("key") == folder == store.root / "key"
    assert store.find("other") is None
    assert [path.name for path in store.root.iterdir()] == ["key"]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("written", range(4))
def test_nothing_is_found_of_what_was_cut_short_and_it_can_be_written_again(
    store, monkeypatch, written
):
    calls, write_table = [], pq.write_table

    def cut_short(*arguments, **options):
        if len(calls) == written:
            raise Killed
        calls.append(write_table(*arguments, **options))

    monkeypatch.setattr(pq, "write_table", cut_short)
    with pytest.raises(Killed):
        store.write("key", make())
    monkeypatch.undo()
    assert store.find("key") is None
    assert_same(read_activations(store.write("key", make())), make())


def test_the_manifest_is_the_last_file_written(tmp_path, monkeypatch):
    def cut_short(*arguments, **options):
        raise Killed

    monkeypatch.setattr("pathlib.Path.write_text", cut_short)
    with pytest.raises(Killed):
        write_activations(tmp_path / "acts", make())
    written = {str(path.relative_to(tmp_path / "acts")) for path in tmp_path.rglob("*.parquet")}
    parts = {f"{site}/part-00000.parquet" for site in make()}
    assert written == {"prompts.parquet", "tokens.parquet", *parts}
    with pytest.raises(ActivationError, match=r"no complete activations .*: extract again"):
        read_activations(tmp_path / "acts")


def test_writing_a_key_again_keeps_the_first_folder(store):
    first = store.write("key", make(seed=0))
    assert store.write("key", make(seed=1)) == first
    np.testing.assert_array_equal(read_activations(first)[RESID], make(seed=0)[RESID])
    assert [path.name for path in store.root.iterdir()] == ["key"]


def test_many_writers_may_keep_the_same_key_at_the_same_time(store):
    acts = make("none", seed=7)
    with ThreadPoolExecutor(4) as writers:
        folders = set(writers.map(store.write, ["key"] * 12, [acts] * 12))
    assert folders == {store.find("key")}
    assert_same(read_activations(store.root / "key"), acts)
    assert [path.name for path in store.root.iterdir()] == ["key"]


def test_another_writer_that_finishes_first_wins(store, monkeypatch):
    rename = os.rename

    def late(source, target):
        monkeypatch.undo()
        ActivationStore(store.root).write("key", make(seed=1))
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    folder = store.write("key", make(seed=2))
    np.testing.assert_array_equal(read_activations(folder)[RESID], make(seed=1)[RESID])


def test_a_folder_whose_manifest_was_lost_is_written_anew(store):
    (store.write("key", make(seed=1)) / MANIFEST).unlink()
    folder = store.write("key", make(seed=2))
    assert store.find("key") == folder
    assert_same(read_activations(folder), make(seed=2))


def test_a_disk_that_fails_is_not_hidden(store):
    store.root.write_text("a file where the store's folder should be")
    with pytest.raises(ActivationError, match=r"cannot be made .*name another"):
        store.write("key", make())


@pytest.mark.parametrize(
    "name", ["prompts.parquet", "tokens.parquet", "resid_post.0/part-00000.parquet"]
)
@pytest.mark.parametrize("fault", ["cut", "empty", "gone", "other columns"])
def test_a_damaged_file_is_named_with_the_remedy(store, name, fault):
    folder = store.write("key", make("none"))
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if fault == "other columns":
        pq.write_table(pa.table({"x": [1]}), path)
    elif fault != "gone":
        path.write_bytes(content[:-9] if fault == "cut" else b"")
    with pytest.raises(
        ActivationError, match=r"is damaged .*: delete the folder and extract again"
    ):
        read_activations(folder)


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_a_part_with_rows_lacking_is_damaged(store, pool):
    folder = store.write("key", make(pool))
    path = folder / "resid_post.0" / "part-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, len(table) - 1), path)
    with pytest.raises(ActivationError, match="is damaged"):
        read_activations(folder)


def test_a_value_that_changed_on_the_disk_is_noticed(store):
    folder = store.write("key", make())
    path = folder / "resid_post.0" / "part-00000.parquet"
    content = path.read_bytes()
    at = content.index(make()[RESID][1].tobytes())
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(ActivationError, match="is damaged"):
        read_activations(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "sites": ["x"]}'])
def test_a_damaged_manifest_is_told_with_the_remedy(store, text):
    folder = store.write("key", make())
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ActivationError, match=r"extract again"):
        read_activations(folder)


def test_another_schema_is_refused(store):
    folder = store.write("key", make())
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(ActivationError, match=r"schema 99, this version reads 1: extract again"):
        read_activations(folder)


def test_a_site_that_is_lacking_is_named(store):
    folder = store.write("key", make())
    with pytest.raises(ActivationError, match=r"key does not hold mlp_out\.3"):
        read_activations(folder, [RESID, Site("mlp_out", 3)])


def test_a_folder_that_holds_files_is_not_written_to(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ActivationError, match="is not empty: name a new folder"):
            write_activations(taken, make())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    check_new_folder(tmp_path / "new")
    (tmp_path / "new").mkdir()
    write_activations(tmp_path / "new", make())
    assert_same(read_activations(tmp_path / "new"), make())


INPUTS = {
    "fingerprint": "a" * 64,
    "prompts": PROMPTS,
    "sites": [RESID, MLP],
    "pool": "mean",
    "tokens": "content",
    "truncate": False,
    "dtype": "float32",
    "attention": "sdpa",
}


@pytest.mark.parametrize(
    ("name", "other"),
    {
        "fingerprint": "b" * 64,
        "prompts": PromptSet.of(["the cat"]),
        "sites": [RESID],
        "pool": "max",
        "tokens": "all",
        "truncate": True,
        "dtype": "bfloat16",
        "attention": "eager",
    }.items(),
)
def test_the_key_differs_with_everything_that_decides_the_values(name, other):
    assert activation_key(**INPUTS) != activation_key(**{**INPUTS, name: other})


def test_the_key_is_the_same_in_every_process_and_on_every_machine():
    key = activation_key(**{**INPUTS, "prompts": PromptSet.of(["the cat"])})
    assert key == "a92223231a2e9bfb713ed6906e69f9e7"


def test_activations_are_found_by_site_by_name_and_by_alias():
    acts = make()
    for name in (MLP, "mlp_act.11", "blocks.11.mlp.hook_post"):
        np.testing.assert_array_equal(acts[name], acts.arrays[MLP])
    with pytest.raises(
        SiteError, match=r"resid_post\.1 was not recorded; recorded are resid_post\.0"
    ):
        acts["resid_post.1"]


def test_unknown_pools_and_token_rules_are_refused_and_the_known_ones_named():
    check_pooling("mean", "all")
    with pytest.raises(
        NeuroscopeError, match=r"unknown pool 'sum': .* mean, max, last, first, none"
    ):
        check_pooling("sum", "all")
    with pytest.raises(NeuroscopeError, match=r"unknown token rule 'words': .* content, all"):
        check_pooling("mean", "words")


def test_home_is_where_the_environment_says(home, monkeypatch, tmp_path):
    assert find_home() == home and home.is_dir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("NEUROSCOPE_HOME", "~/scope")
    assert find_home() == tmp_path / "user" / "scope"
    monkeypatch.setenv("NEUROSCOPE_HOME", "")
    assert find_home() == tmp_path / "user" / ".neuroscope"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEUROSCOPE_HOME", "here")
    assert find_home() == tmp_path / "here"
