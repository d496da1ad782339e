"""Folders of activations on their way: damaged, foreign, or written by two at once."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored import (
    MLP,
    PARTS,
    PROMPTS,
    RESID,
    VOCABULARY,
    Killed,
    assert_same,
    key,
    make,
    manifest,
    opened,
    tokenise,
    write,
    write_part,
)

from neuroscope.errors import PromptError, StoreError
from neuroscope.prompts import Prompt, PromptSet
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations
from neuroscope.storage.manifest import MANIFEST, Manifest, read_manifest
from neuroscope.storage.unfinished import (
    UNFINISHED,
    complete_manifest,
    unfinished_activations,
)


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
    with pytest.raises(StoreError, match=message):
        complete_manifest(folder, key(**other))
    with (
        pytest.raises(StoreError, match=message),
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
    with pytest.raises(StoreError, match=r"holds other activations \(pool none\)"):
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
    with opened(folder, manifest(per_part=2)) as unfinished:
        assert unfinished.missing == [0, 1]
    stray = folder / "mlp_act.11" / "part-00002.parquet"  # as if killed before it was removed
    for name in (stray, stray.with_name(".part-00000.parquet")):
        name.write_bytes((folder / "prompts" / "part-00000.parquet").read_bytes())
    assert write(folder, make(), per_part=2) == [0, 1]
    assert len(list((folder / "mlp_act.11").iterdir())) == 2
    assert_same(read_activations(folder), make())


def test_values_that_cannot_be_read_for_a_moment_are_kept(folder, monkeypatch):
    with opened(folder, manifest()) as unfinished:
        write_part(unfinished, 0, make())

    def refuse(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(pq, "read_metadata", refuse)
    with pytest.raises(StoreError, match=r"holds other activations \(pool mean\)"):
        write(folder, make("none"))
    monkeypatch.undo()
    assert write(folder, make()) == [1]


def test_prompts_are_divided_as_now_planned_until_there_are_values(folder):
    """A machine with less memory could not go on with what one with more has planned."""
    for per_part, parts in ((3, (3,)), (1, (1, 1, 1))):
        with opened(folder, manifest(per_part=per_part)) as unfinished:
            assert unfinished.manifest.parts == parts
    write_part(unfinished, 1, make())
    assert write(folder, make(), per_part=3) == [0, 2]
    assert_same(read_activations(folder), make())


@pytest.mark.parametrize("lost", [[MANIFEST], [MANIFEST, PARTS[0]]])
def test_a_lost_manifest_is_made_anew_from_what_the_parts_say(folder, lost):
    write(folder, make())
    for name in lost:
        (folder / name).unlink()
    with pytest.raises(StoreError, match="is not empty: name a new folder"):
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
    with pytest.raises(StoreError, match=rf"{name} is damaged .it is a part of something"):
        read_activations(folder)
    assert write(folder, make("mean")) == ([1] if table == "resid_post.0" else [])
    assert_same(read_activations(folder), make("mean"))
    shutil.copy(folder / table / "part-00000.parquet", folder / name)
    assert complete_manifest(folder, key()) is None


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

    def refuse_later(prompts):
        thread.start()
        assert waits.wait(10)
        refuse(prompts)

    thread = threading.Thread(target=second)
    with (
        pytest.raises(PromptError),
        unfinished_activations(folder, key(), lambda begun: manifest(), PROMPTS, refuse_later),
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
    with pytest.raises(StoreError, match=told) as refused:
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


def changed(**entries):
    """A manifest with other entries."""
    return lambda text: json.dumps({**json.loads(text), **entries})


@pytest.mark.parametrize(
    "change",
    [
        *("", "{", "[]", "{}", '{"schema": 5}', '{"schema": 5, "key": {}}'),
        *(changed(prompts_per_part=0), changed(tokens_per_part=0)),
        *(changed(parts=[2]), changed(parts=[4, -1])),
    ],
)
@pytest.mark.parametrize("name", [MANIFEST, UNFINISHED])
def test_a_damaged_manifest_is_told_with_the_remedy(folder, change, name):
    write(folder, make())
    (folder / MANIFEST).rename(folder / name)
    text = (folder / name).read_text()
    (folder / name).write_text(change if isinstance(change, str) else change(text))
    with pytest.raises(StoreError, match=rf"{name} is damaged .*delete this file and run"):
        complete_manifest(folder, key())
    (folder / name).unlink()  # as told
    assert write(folder, make()) == []
    assert_same(read_activations(folder), make())


def test_what_may_not_be_read_is_not_called_damaged(folder, monkeypatch):
    """The remedy for that is to delete it."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    write(folder, make())
    with monkeypatch.context() as patch:
        patch.setattr(pq, "read_table", refuse)
        with pytest.raises(StoreError, match=r"part-00000.parquet cannot be read \(Permission"):
            read_activations(folder)
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(StoreError, match=r"manifest.json cannot be read \(Permission denied\)"):
        read_activations(folder)


def test_another_schema_is_refused_and_nothing_is_changed(folder):
    write(folder, make())
    document = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**document, "schema": 99}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for attempt in (lambda: read_activations(folder), lambda: write(folder, make())):
        with pytest.raises(StoreError, match=r"schema 99, this version reads 5: extract"):
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


def refuse(prompts):
    raise PromptError("prompt '9' is too long")


def test_a_folder_that_holds_something_else_is_not_written_to(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="is not empty: name a new folder"):
        write(tmp_path, make())
    with pytest.raises(StoreError, match="is a file: name a new folder"):
        write(tmp_path / "notes.txt", make())
    with (
        pytest.raises(PromptError),
        unfinished_activations(
            tmp_path / "new" / "acts", key(), lambda begun: manifest(), PROMPTS, refuse
        ),
    ):
        pass
    with pytest.raises(StoreError, match=r"cannot be made .*: name another"):
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


def test_rows_that_are_not_finite_are_counted_by_site(folder):
    with opened(folder, manifest()) as unfinished:
        for number, rows in ((0, {MLP: 2, RESID: 1}), (1, {MLP: 1})):
            ids, block = unfinished.inputs(number, VOCABULARY)
            values = [(site, np.zeros((len(ids), 3), "f4")) for site in (RESID, MLP)]
            unfinished.write(number, ids, block, values, rows)
        unfinished.finish()
    assert read_manifest(folder).nonfinite == {"mlp_act.11": 3, "resid_post.0": 1}
