"""Activations on disk: what is written is read, what is damaged or foreign is refused."""

import json
import os
import shutil
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroscope.activations import Activations, Provenance, check_pooling
from neuroscope.errors import ActivationError, NeuroscopeError, PromptError, SiteError
from neuroscope.home import home as find_home
from neuroscope.prompts import Prompt, PromptSet
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations, stored_at
from neuroscope.storage.disk import check_room, estimated_bytes, free_bytes, stored_bytes
from neuroscope.storage.manifest import MANIFEST, ActivationKey, Manifest, read_manifest
from neuroscope.storage.unfinished import (
    UNFINISHED,
    complete_manifest,
    unfinished_activations,
)
from neuroscope.tokens import TokenBlock, Vocabulary

PROMPTS = PromptSet(
    (
        Prompt("z", "the cat", {"topic": "animals", "language": "en"}),
        Prompt("10", "Ünïcödé 猫\nof two lines"),
        Prompt("9", "x"),
    )
)
RESID, MLP = Site("resid_post", 0), Site("mlp_act", 11)
NEURONS = {RESID: 8, MLP: 5}
WORDS = ("[CLS]", "[SEP]", "[UNK]", "the", "cat", "Ün", "##ï", "猫", "x")
VOCABULARY = Vocabulary(WORDS, frozenset({0, 1}), 2)
IDS = {"z": (0, 3, 4, 1), "10": (0, 5, 6, 7, 2, 1), "9": (0, 8, 1)}
PARTS = ["resid_post.0/part-00000.parquet", "mlp_act.11/part-00001.parquet"]


def tokenise(prompts):
    ids = [IDS[prompt.id] for prompt in prompts]
    ends = np.cumsum([len(one) for one in ids])
    return TokenBlock(np.concatenate(ids).astype(np.int32), ends, VOCABULARY)


def key(pool="mean", rule="content", **others):
    values = {"fingerprint": "f" * 64, "prompts_digest": PROMPTS.digest, "sites": (RESID, MLP)}
    values |= {"pool": pool, "tokens": rule, "truncated": False}
    return ActivationKey(**values | {"dtype": "float32", "attention": "sdpa"} | others)


def manifest(pool="mean", rule="content", per_part=2, tokens_per_part=1000):
    provenance = Provenance(
        model="tiny",
        architecture="bert",
        fingerprint="f" * 64,
        revision=None,
        attention="sdpa",
        dtype="float32",
        device="cpu",
        padding_side="right",
        tokens=rule,
        pool=pool,
        truncated=False,
        batch_tokens=2048,
        seed=0,
        prompts_digest=PROMPTS.digest,
        versions={"python": "3.11"},
    )
    return Manifest(key(pool, rule), len(PROMPTS), per_part, tokens_per_part, provenance)


def complete(pool="mean", **options):
    return replace(manifest(pool, **options), parts=(2, 1))


def opened(folder, plan, prompts=PROMPTS, **options):
    return unfinished_activations(
        folder, plan.key, lambda begun: plan, prompts, tokenise, **options
    )


def make(pool="mean", rule="content", seed=0):
    """Activations of the prompts at two sites of different width."""
    random = np.random.default_rng(seed)
    kept = tokenise(PROMPTS).kept_counts(rule)

    def array(neurons):
        if pool != "none":
            return random.normal(size=(len(PROMPTS), neurons)).astype(np.float32)
        return [random.normal(size=(count, neurons)).astype(np.float32) for count in kept]

    arrays = {site: array(neurons) for site, neurons in NEURONS.items()}
    return Activations(PROMPTS, tokenise(PROMPTS), arrays, manifest(pool, rule).provenance)


def write(folder, acts, per_part=2, prompts=PROMPTS, tokens_per_part=1000):
    """Writes activations part by part, and gives the numbers of the parts that were missing."""
    pool, rule = acts.provenance.pool, acts.provenance.tokens
    plan = manifest(pool, rule, per_part, tokens_per_part)
    with opened(folder, plan, prompts) as unfinished:
        missing = list(unfinished.missing)
        for number in missing:
            write_part(unfinished, number, acts)
        unfinished.finish()
    return missing


def write_part(unfinished, number, acts):
    place = unfinished.manifest.part("prompts", number)
    span = slice(place.first, place.first + place.prompts)
    ids, block = unfinished.inputs(number, VOCABULARY)
    join = np.concatenate if acts.provenance.pool == "none" else np.asarray
    values = ((site, join(acts[site][span])) for site in acts)
    unfinished.write(number, ids, block, values, {})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "acts"


def assert_same(one, other):
    assert (one.prompts, one.tokens, one.sites) == (other.prompts, other.tokens, other.sites)
    assert one.provenance == other.provenance
    for site in one:
        for a, b in zip(one[site], other[site], strict=True):
            assert a.dtype == b.dtype == np.float32
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("per_part", [1, 2, 3, 100])
def test_pooled_activations_read_back_exactly(folder, per_part):
    acts = make("mean")
    write(folder, acts, per_part)
    read = read_activations(folder)
    assert_same(read, acts)
    assert read["resid_post.0"].shape == (3, 8)
    assert read.prompts.prompts[0].labels == {"topic": "animals", "language": "en"}


@pytest.mark.parametrize("rule", ["content", "all"])
@pytest.mark.parametrize("per_part", [1, 2])
def test_token_level_activations_read_back_exactly(folder, rule, per_part):
    acts = make("none", rule)
    write(folder, acts, per_part)
    read = read_activations(folder)
    assert_same(read, acts)
    counts = [2, 4, 1] if rule == "content" else [4, 6, 3]
    assert [values.shape for values in read[MLP]] == [(count, 5) for count in counts]
    assert [read.kept_tokens(prompt).sum() for prompt in range(3)] == counts


def test_values_that_float32_can_hold_survive_to_the_last_bit(folder):
    extreme = np.array([[0.0, -0.0, 1e-45, 3.4e38, -1e-38, 1 / 3, 2**24 + 2, np.nan]] * 3, "f4")
    write(folder, replace(make(), arrays={RESID: extreme, MLP: extreme}))
    assert read_activations(folder)[RESID].tobytes() == extreme.tobytes()


def test_an_array_that_is_not_contiguous_is_written_in_its_order(folder):
    acts = make()
    turned = np.asfortranarray(acts[RESID])[:, ::2]
    write(folder, replace(acts, arrays={RESID: turned, MLP: acts[MLP]}))
    np.testing.assert_array_equal(read_activations(folder)[RESID], turned)


def test_only_the_sites_asked_for_are_read(folder):
    write(folder, make())
    shutil.rmtree(folder / "resid_post.0")
    assert read_activations(folder, [MLP]).sites == (MLP,)
    for names in ("mlp_act", ["mlp_act.11"], ["blocks.11.mlp.hook_post"], [MLP, "mlp_act"]):
        assert read_activations(str(folder), names).sites == (MLP,)
    assert read_activations(folder, []).tokens == make().tokens


def test_pandas_reads_pooled_parts(folder):
    acts = make()
    write(folder, acts)
    table = pd.read_parquet(folder / "resid_post.0")
    assert list(table.columns) == ["prompt", "values"]
    assert table["prompt"].tolist() == ["z", "10", "9"]
    np.testing.assert_array_equal(np.stack(table["values"]), acts[RESID])


def test_pandas_reads_token_level_parts_with_their_positions(folder):
    acts = make("none")
    write(folder, acts)
    table = pd.read_parquet(folder / "mlp_act.11")
    assert list(table.columns) == ["prompt", "position", "values"]
    assert table["prompt"].tolist() == ["z"] * 2 + ["10"] * 4 + ["9"]
    assert table["position"].tolist() == [1, 2, 1, 2, 3, 4, 1]
    np.testing.assert_array_equal(np.stack(table["values"]), np.concatenate(acts[MLP]))
    words = pd.read_parquet(folder / "tokens").query("not special")
    assert words["text"].tolist() == ["the", "cat", "Ün", "##ï", "猫", "[UNK]", "x"]
    assert words["unknown"].tolist() == [False] * 5 + [True, False]


def test_a_folder_holds_what_it_says_and_no_scaffolding(folder):
    write(folder, make("none"))
    names = {path.name for path in folder.iterdir()}
    assert names == {MANIFEST, "prompts", "tokens", "resid_post.0", "mlp_act.11"}
    document = json.loads((folder / MANIFEST).read_text())
    assert (document["schema"], document["prompts"]) == (4, 3)
    assert document["digest"] == key("none").digest
    assert document["key"]["sites"] == ["resid_post.0", "mlp_act.11"]
    assert read_manifest(folder) == complete("none")
    assert stored_bytes(folder) == sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def test_what_is_complete_is_found_by_its_key(folder):
    assert complete_manifest(folder, key()) is None
    write(folder, make())
    assert complete_manifest(folder, key()) == complete()
    assert write(folder, make()) == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"pool": "max"}, "pool mean"),
        ({"dtype": "bfloat16", "truncated": True}, "truncated False; dtype float32"),
        ({"fingerprint": "e" * 64, "prompts_digest": "x"}, "another model; other prompts"),
        ({"sites": (RESID,)}, "sites resid_post.0, mlp_act.11"),
    ],
)
def test_activations_of_another_key_are_kept_and_it_is_told_how_they_differ(folder, other, words):
    write(folder, make())
    message = rf"holds other activations \({words}\): name a new folder"
    with pytest.raises(ActivationError, match=message):
        complete_manifest(folder, key(**other))
    with (
        pytest.raises(ActivationError, match=message),
        opened(folder, replace(manifest(), key=key(**other))),
    ):
        pass
    assert_same(read_activations(folder), make())


def test_a_folder_begun_with_another_key_is_taken_over_unless_it_holds_values(folder):
    for pool in ("max", "none"):
        with opened(folder, manifest(pool)):
            pass
    with opened(folder, manifest("none")) as unfinished:
        write_part(unfinished, 1, make("none"))
    with pytest.raises(ActivationError, match=r"holds other activations \(pool none\)"):
        write(folder, make())
    (folder / PARTS[1]).unlink()
    (folder / "resid_post.0" / "part-00001.parquet").unlink()
    assert write(folder, make()) == [0, 1]
    assert_same(read_activations(folder), make())


def test_nothing_is_left_of_a_key_that_a_folder_was_begun_with(folder):
    """Neither by one that takes it over, nor by one whose prompts are refused."""
    shutil.rmtree(folder, ignore_errors=True)
    other = replace(manifest("max"), key=key("max", sites=(Site("mlp_out", 5),)))
    with opened(folder, other):
        (folder / "mlp_out.5").mkdir()
        (folder / "mlp_out.5" / ".part-00000.parquet").write_bytes(b"killed while it was written")
        (folder / ".inputs" / "tokens").mkdir(parents=True)  # likewise
    refused = PromptError("prompt '9' is too long")

    def refuse(prompts):
        raise refused

    with (
        pytest.raises(PromptError, match="too long"),
        unfinished_activations(folder, key(), lambda begun: manifest(), PROMPTS, refuse),
    ):
        pass
    assert list(folder.iterdir()) == []
    with opened(folder, other):
        (folder / "mlp_out.5").mkdir()
    write(folder, make())
    names = {path.name for path in folder.iterdir()}
    assert names == {MANIFEST, "prompts", "tokens", "resid_post.0", "mlp_act.11"}


def test_what_a_folder_is_to_hold_is_planned_from_what_has_been_begun(folder):
    """By one process at a time, or a second would plan from what was there before the first."""
    told = []

    def plan(begun):
        told.append(begun)
        return manifest()

    for _ in range(2):
        with unfinished_activations(folder, key(), plan, PROMPTS, tokenise) as unfinished:
            assert (folder / ".lock").exists()
    assert told == [None, manifest()]
    for number in (0, 1):
        with unfinished_activations(folder, key(), plan, PROMPTS, tokenise) as unfinished:
            write_part(unfinished, number, make())
    unfinished.finish()
    with unfinished_activations(folder, key(), plan, PROMPTS, tokenise):
        assert len(told) == 4


def test_prompts_are_divided_by_their_tokens_too(folder):
    """4, 6 and 3 tokens: three parts where each may have 6, two where it may have 10."""
    write(folder, make(), per_part=3, tokens_per_part=6)
    assert read_manifest(folder).parts == (1, 1, 1)
    assert_same(read_activations(folder), make())
    shutil.rmtree(folder)
    write(folder, make("none"), per_part=3, tokens_per_part=10)
    assert read_manifest(folder).parts == (1, 2)
    assert_same(read_activations(folder), make("none"))


def test_values_are_made_anew_where_the_prompts_have_to_be_divided_anew(folder):
    write(folder, make(), per_part=1)
    for name in (MANIFEST, "prompts/part-00002.parquet"):
        (folder / name).unlink()
    assert write(folder, make(), per_part=2) == [0, 1]
    assert len(list((folder / "mlp_act.11").iterdir())) == 2
    assert_same(read_activations(folder), make())


@pytest.mark.parametrize("lost", [[MANIFEST], [MANIFEST, PARTS[0]]])
def test_a_lost_manifest_is_made_anew_from_what_the_parts_say(folder, lost):
    write(folder, make())
    for name in lost:
        (folder / name).unlink()
    with pytest.raises(ActivationError, match="is not empty: name a new folder"):
        complete_manifest(folder, key(dtype="bfloat16"))
    # parts of another number of prompts would be made now: those there are kept
    assert write(folder, make(), per_part=1) == [0][: len(lost) - 1]
    assert_same(read_activations(folder), make())


@pytest.mark.parametrize("table", ["resid_post.0", "tokens"])
def test_a_part_of_other_activations_is_not_taken_for_ones_own(folder, tmp_path, table):
    write(folder, make("mean"))
    write(tmp_path / "other", make("max"))
    name = f"{table}/part-00001.parquet"
    shutil.copy(tmp_path / "other" / name, folder / name)
    assert complete_manifest(folder, key()) is None
    with pytest.raises(ActivationError, match=rf"{name} is damaged .it is a part of something"):
        read_activations(folder)
    assert write(folder, make("mean")) == ([1] if table == "resid_post.0" else [])
    assert_same(read_activations(folder), make("mean"))
    shutil.copy(folder / table / "part-00000.parquet", folder / name)
    assert complete_manifest(folder, key()) is None


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("written", range(12))
def test_what_is_cut_short_is_not_found_and_goes_on_where_it_was(folder, monkeypatch, written):
    calls, rename = [], os.replace

    def cut_short(source, target):
        if len(calls) == written:
            raise Killed
        calls.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", cut_short)
    cut = False
    try:
        write(folder, make())
    except Killed:
        cut = True
    monkeypatch.undo()
    assert cut == (written < 10)  # plan, 2 x (prompts, tokens), 2 x 2 sites, manifest
    if cut:
        with pytest.raises(ActivationError, match=r"no complete activations .*same extraction"):
            read_activations(folder)
    whole = {path: path.stat().st_mtime_ns for path in folder.rglob("[!.]*/[!.]*.parquet")}
    missing = write(folder, make())
    assert missing == [number for number in (0, 1) if written < 7 + 2 * number]
    assert_same(read_activations(folder), make())
    if written >= 5:  # nothing that was whole is written again
        kept = {path for path, time in whole.items() if path.stat().st_mtime_ns == time}
        assert {path for path in whole if path.parent.name in ("prompts", "tokens")} <= kept


def test_finished_parts_are_not_computed_again(folder):
    first, second = make(seed=1), make(seed=2)
    plan = manifest()
    with opened(folder, plan) as unfinished:
        write_part(unfinished, 1, first)
        assert unfinished.missing == [0]
        assert unfinished.finished_prompts == 1
    # what another number of prompts a part would be does not matter to one that has begun
    assert write(folder, second, per_part=1) == [0]
    found = read_activations(folder)
    np.testing.assert_array_equal(found[MLP][:2], second[MLP][:2])
    np.testing.assert_array_equal(found[MLP][2:], first[MLP][2:])


def test_of_two_writers_one_waits_and_finds_it_done(folder):
    began, waits, parts = threading.Event(), threading.Event(), []

    def second():
        began.wait(10)
        plan = manifest()

        def progress(task, done, total):
            assert task.startswith("wait for another process")
            waits.set()

        with opened(folder, plan, progress=progress) as unfinished:
            parts.append(list(unfinished.missing))
            unfinished.finish()

    thread = threading.Thread(target=second)
    thread.start()
    with opened(folder, manifest()) as unfinished:
        began.set()
        assert waits.wait(10)
        for number in (0, 1):
            write_part(unfinished, number, make())
        unfinished.finish()
    thread.join(10)
    assert parts == [[]]
    assert_same(read_activations(folder), make())


def test_one_that_waits_goes_on_where_the_first_fails_and_takes_its_folder_away(folder):
    waits, done = threading.Event(), []

    def second():
        with opened(folder, manifest(), progress=lambda task, *_: waits.set()) as unfinished:
            done.append(list(unfinished.missing))

    def refuse(prompts):
        thread.start()
        assert waits.wait(10)
        raise PromptError("prompt '9' is too long")

    thread = threading.Thread(target=second)
    with (
        pytest.raises(PromptError),
        unfinished_activations(folder, key(), lambda begun: manifest(), PROMPTS, refuse),
    ):
        pass
    thread.join(10)
    assert done == [[0, 1]]


@pytest.mark.parametrize(
    "name", ["prompts/part-00000.parquet", "tokens/part-00001.parquet", *PARTS]
)
@pytest.mark.parametrize("fault", ["cut", "empty", "gone", "other columns"])
def test_a_damaged_part_is_named_and_only_it_is_made_anew(folder, name, fault):
    acts = make("none")
    write(folder, acts)
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if fault == "other columns":
        pq.write_table(pa.table({"x": [1]}), path)
    elif fault != "gone":
        path.write_bytes(content[:-9] if fault == "cut" else b"")
    told = "is missing: run the same" if fault == "gone" else r"is damaged .*delete it and run the"
    with pytest.raises(ActivationError, match=told) as refused:
        read_activations(folder)
    assert str(path) in str(refused.value)
    path.unlink(missing_ok=True)  # as told
    missing = write(folder, acts)
    assert missing == ([int(name[-9])] if name in PARTS else [])
    assert_same(read_activations(folder), acts)


@pytest.mark.parametrize("fault", [b"", b"cut"])
def test_a_part_that_was_cut_is_made_anew_without_being_deleted(folder, fault):
    write(folder, make())
    (folder / PARTS[0]).write_bytes(fault)
    assert complete_manifest(folder, key()) is None
    assert write(folder, make()) == [0]
    assert_same(read_activations(folder), make())


@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.parametrize("change", ["fewer rows", "another's rows"])
def test_a_part_with_other_rows_is_damaged(folder, pool, change):
    write(folder, make(pool))
    path = folder / PARTS[0]
    table = pq.read_table(path)
    if change == "fewer rows":
        table = table.slice(0, len(table) - 1)
    else:
        table = table.set_column(0, "prompt", pa.array(["9"] * len(table)))
    pq.write_table(table, path)
    with pytest.raises(ActivationError, match="is damaged"):
        read_activations(folder)


def test_a_value_that_changed_on_the_disk_is_noticed(folder):
    write(folder, make())
    path = folder / PARTS[0]
    content = path.read_bytes()
    at = content.index(make()[RESID][1].tobytes())
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(ActivationError, match="is damaged"):
        read_activations(folder)


def changed(**entries):
    """A manifest with other entries."""
    return lambda text: json.dumps({**json.loads(text), **entries})


@pytest.mark.parametrize(
    "change",
    [
        *("", "{", "[]", "{}", '{"schema": 4}', '{"schema": 4, "key": {}}'),
        *(changed(prompts_per_part=0), changed(tokens_per_part=0), changed(parts=[2])),
    ],
)
@pytest.mark.parametrize("name", [MANIFEST, UNFINISHED])
def test_a_damaged_manifest_is_told_with_the_remedy(folder, change, name):
    write(folder, make())
    (folder / MANIFEST).rename(folder / name)
    text = (folder / name).read_text()
    (folder / name).write_text(change if isinstance(change, str) else change(text))
    with pytest.raises(ActivationError, match=rf"{name} is damaged .*delete this file and run"):
        complete_manifest(folder, key())
    (folder / name).unlink()  # as told
    assert write(folder, make()) == []
    assert_same(read_activations(folder), make())


def test_another_schema_is_refused_and_nothing_is_changed(folder):
    write(folder, make())
    document = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**document, "schema": 99}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for attempt in (lambda: read_activations(folder), lambda: write(folder, make())):
        with pytest.raises(ActivationError, match=r"schema 99, this version reads 4: extract"):
            attempt()
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_counts_of_values_that_are_not_finite_stay_with_their_parts(folder):
    """Whatever is made anew or cut short."""

    def write_zeros(sites, counts):
        with opened(folder, manifest(per_part=3)) as unfinished:
            ids, block = unfinished.inputs(0, VOCABULARY)
            values = ((site, np.zeros((3, 3), "f4")) for site in sites)
            unfinished.write(0, ids, block, values, counts)
            if len(sites) < 2:
                raise Killed
            assert unfinished.nonfinite == {str(site): rows for site, rows in counts.items()}
            unfinished.finish()

    write_zeros((RESID, MLP), {MLP: 3})
    (folder / "resid_post.0" / "part-00000.parquet").unlink()
    with pytest.raises(Killed):
        write_zeros((RESID,), {})
    with opened(folder, manifest(per_part=3)) as unfinished:
        assert (unfinished.missing, unfinished.nonfinite) == ([], {"mlp_act.11": 3})
        unfinished.finish()
    assert read_manifest(folder).nonfinite == {"mlp_act.11": 3}
    (folder / "mlp_act.11" / "part-00000.parquet").unlink()
    write_zeros((RESID, MLP), {RESID: 1})
    assert read_manifest(folder).nonfinite == {"resid_post.0": 1}


def test_counts_are_kept_where_only_the_last_step_is_cut_short(folder):
    """The manifest is there, and that of the unfinished folder has not been taken away."""
    with opened(folder, manifest(per_part=3)) as unfinished:
        ids, block = unfinished.inputs(0, VOCABULARY)
        values = [(site, np.zeros((3, 3), "f4")) for site in (RESID, MLP)]
        unfinished.write(0, ids, block, values, {MLP: 2})
        left = (folder / UNFINISHED).read_bytes()
        unfinished.finish()
    (folder / UNFINISHED).write_bytes(left)
    assert complete_manifest(folder, key()) is None
    with opened(folder, manifest(per_part=3)) as unfinished:
        assert (unfinished.missing, unfinished.nonfinite) == ([], {"mlp_act.11": 2})
        unfinished.finish()
    assert complete_manifest(folder, key()).nonfinite == {"mlp_act.11": 2}
    assert not (folder / UNFINISHED).exists()


def test_what_computes_the_rest_of_a_folder_is_noted_where_it_differs(folder):
    write(folder, make())
    first = read_manifest(folder)
    assert first.later == ()
    (folder / PARTS[0]).unlink()
    other = replace(first.provenance, device="cuda:0", created="later")
    for provenance in (replace(first.provenance, created="later"), other, other):
        with opened(folder, replace(manifest(), provenance=provenance)):
            pass
    write(folder, replace(make(), provenance=other))
    found = read_manifest(folder)
    assert found.provenance == first.provenance
    assert found.later == (other, first.provenance)


def test_long_columns_are_divided_into_groups_that_readers_can_count(folder, monkeypatch):
    monkeypatch.setattr("neuroscope.storage.parts._VALUES_A_GROUP", 10)
    write(folder, make())
    groups = [pq.read_metadata(folder / part).num_row_groups for part in PARTS]
    assert groups == [2, 1]  # two rows of 8 values, one of 5
    assert_same(read_activations(folder), make())


def test_the_size_is_told_while_another_process_writes(folder):
    write(folder, make())
    before, stop = stored_bytes(folder), threading.Event()

    def come_and_go():
        while not stop.is_set():
            for name in (".inputs/tokens", "later"):
                (folder / name).mkdir(parents=True)
                for number in range(20):
                    (folder / name / f"part-{number}.parquet").touch()
                shutil.rmtree(folder / name.split("/")[0])

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        assert {stored_bytes(folder) for _ in range(500)} == {before}
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("moment", range(5))
def test_another_process_may_begin_and_finish_at_any_moment(folder, monkeypatch, moment):
    """While one looks at what is there, another begins, and then ends."""
    looks, read = iter(range(10)), Manifest.read

    def meanwhile(path):
        if next(looks) == moment:
            monkeypatch.undo()
            write(folder, make())
        return read(path)

    monkeypatch.setattr(Manifest, "read", meanwhile)
    assert complete_manifest(folder, key()) in (None, read_manifest(folder))
    assert write(folder, make()) == []


def test_a_site_that_is_lacking_is_named(folder):
    write(folder, make())
    with pytest.raises(ActivationError, match=r"not hold mlp_out\.3; it holds resid_post\.0, mlp"):
        read_activations(folder, [RESID, Site("mlp_out", 3)])
    with pytest.raises(SiteError, match="unknown site 'mlp_ac'"):
        read_activations(folder, "mlp_ac")


def test_a_folder_that_holds_something_else_is_not_written_to(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ActivationError, match="is not empty: name a new folder"):
        write(tmp_path, make())
    with pytest.raises(ActivationError, match="is a file: name a new folder"):
        write(tmp_path / "notes.txt", make())
    with pytest.raises(ActivationError, match=r"cannot be made .*: name another"):
        write(tmp_path / "notes.txt" / "acts", make())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "new").mkdir()
    write(tmp_path / "new", make())
    assert_same(read_activations(tmp_path / "new"), make())


def test_prompts_that_changed_since_their_digest_was_taken_are_refused(folder):
    other = PromptSet((PROMPTS.prompts[0], Prompt("10", "other"), PROMPTS.prompts[2]))
    with pytest.raises(PromptError, match="changed while they were read"):
        write(folder, make(), prompts=other)
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(PromptError):
        write(folder, make(), prompts=other)
    assert list(folder.iterdir()) == []
    assert write(folder, make()) == [0, 1]


def test_a_disk_that_fills_keeps_what_is_finished(folder, monkeypatch):
    write_table, room = pq.write_table, iter(range(7))

    def full(*arguments, **options):
        if next(room, None) is None:
            raise OSError(28, "No space left on device")
        write_table(*arguments, **options)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(ActivationError, match=r"No space left on device.*make room and run"):
        write(folder, make())
    monkeypatch.undo()
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]
    assert write(folder, make()) == [1]
    assert_same(read_activations(folder), make())


def test_rows_that_are_not_finite_are_counted_by_site(folder):
    with opened(folder, manifest()) as unfinished:
        for number, rows in ((0, {MLP: 2, RESID: 1}), (1, {MLP: 1})):
            ids, block = unfinished.inputs(number, VOCABULARY)
            values = [(site, np.zeros((len(ids), 3), "f4")) for site in (RESID, MLP)]
            unfinished.write(number, ids, block, values, rows)
        unfinished.finish()
    assert read_manifest(folder).nonfinite == {"mlp_act.11": 3, "resid_post.0": 1}


def test_what_cannot_fit_is_refused_with_the_figures(tmp_path):
    check_room(tmp_path / "not" / "there", 1000)
    with pytest.raises(
        ActivationError,
        match=r"needs about 9,000,000,000.0 MB, and 100.0 MB to spare, but [\d,]+\.\d MB are free",
    ):
        check_room(tmp_path / "not" / "there", 9 * 10**15)
    assert free_bytes(tmp_path / "x") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


def test_a_small_disk_takes_a_small_job(tmp_path, monkeypatch):
    monkeypatch.setattr("neuroscope.storage.disk.free_bytes", lambda folder: 21_000_000)
    check_room(tmp_path, 10_000_000)
    with pytest.raises(ActivationError, match=r"about 11.0 MB, and 11.0 MB to spare, but 21.0 MB"):
        check_room(tmp_path, 11_000_000)


def test_the_estimate_is_near_what_is_written(folder):
    wide = {
        site: np.random.default_rng(0).normal(size=(3, 50_000)).astype("f4") for site in NEURONS
    }
    write(folder, replace(make(), arrays=wide))
    tokens, characters = len(tokenise(PROMPTS).ids), PROMPTS.characters
    guess = estimated_bytes(
        rows=3, neurons=100_000, sites=2, tokens=tokens, characters=characters, parts=2
    )
    assert stored_bytes(folder) == pytest.approx(guess, rel=0.03)


@pytest.mark.parametrize(
    ("name", "other"),
    {
        "fingerprint": "b" * 64,
        "prompts_digest": "c" * 64,
        "sites": (RESID,),
        "pool": "max",
        "tokens": "all",
        "truncated": True,
        "dtype": "bfloat16",
        "attention": "eager",
    }.items(),
)
def test_the_key_differs_with_everything_that_decides_the_values(name, other):
    assert key().digest != replace(key(), **{name: other}).digest


def test_the_key_is_the_same_in_every_process_and_on_every_machine(home):
    assert key().digest == "27d92e79c7012262b08e4188a8817013"
    assert stored_at(key()) == home / "activations" / key().digest


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
