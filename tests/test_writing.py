"""Folders of activations that are being written: resumed, taken over, or left as they were."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from stored import (
    MLP,
    PARTS,
    PROMPTS,
    RESID,
    Lengths,
    assert_same,
    complete,
    key,
    make,
    manifest,
    refuse,
    visible,
    write,
    writing,
)

from neuroscope.errors import PromptError, StoreError
from neuroscope.prompts import Prompt, PromptSet
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations
from neuroscope.storage.keys import Composition
from neuroscope.storage.manifest import MANIFEST, UNFINISHED, read_manifest
from neuroscope.storage.writing import Request, complete_manifest, open_folder


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"pool": "max"}, ["pool mean"]),
        ({"dtype": "bfloat16", "truncated": True}, ["truncated False", "dtype float32"]),
        ({"fingerprint": "e" * 64, "prompts_digest": "x"}, ["model", "prompts"]),
        ({"sites": (RESID,)}, ["resid_post.0, mlp_act.11"]),
        ({"composition": Composition(99, shuffle=7)}, ["composition"]),
    ],
)
def test_activations_of_another_key_are_kept_and_the_differences_named(folder, other, words):
    write(folder, make())
    assert complete_manifest(folder, Request(key(**other))) is None
    with (
        pytest.raises(StoreError) as refused,
        writing(folder, replace(manifest(), key=key(**other))),
    ):
        pass
    assert all(word in refused.value.problem for word in words)
    assert str(folder) in refused.value.problem
    assert_same(read_activations(folder), make())


def test_differences_between_compositions_are_named():
    one, other = (key(composition=Composition(budget, 7, "left")) for budget in (64, 99))
    (difference,) = one.differences(other)
    assert "64" in difference and "7" in difference and "left" in difference


def test_a_folder_begun_with_another_key_is_taken_over_unless_it_holds_values(folder):
    for pool in ("max", "none"):
        with writing(folder, manifest(pool)):
            pass
    with writing(folder, manifest("none")) as to:
        to.write_part(1, make("none"))
    with pytest.raises(StoreError, match="pool none"):
        write(folder, make())
    (folder / PARTS[1]).unlink()
    (folder / "resid_post.0" / "part-00001.parquet").unlink()
    assert write(folder, make()) == [0, 1]
    assert_same(read_activations(folder), make())


def test_a_folder_with_statistics_of_another_key_is_kept(folder):
    write(folder, make("max"), values=False, statistics=[Lengths()])
    with pytest.raises(StoreError, match="pool max"):
        write(folder, make())
    (folder / MANIFEST).rename(folder / UNFINISHED)
    with pytest.raises(StoreError, match="pool max"):
        write(folder, make())


def test_nothing_is_left_of_another_key_that_began_a_folder(folder):
    """Neither by a process that takes it over, nor by one whose prompts are refused."""
    other = replace(manifest("max"), key=key("max", sites=(Site("mlp_out", 5),)))
    with writing(folder, other):
        (folder / "mlp_out.5").mkdir()
        (folder / "mlp_out.5" / ".part-00000.parquet.0123.tmp").write_bytes(b"killed")
        (folder / ".inputs" / "tokens").mkdir(parents=True)
    with pytest.raises(PromptError), writing(folder, manifest(), tokenise=refuse):
        pass
    assert list(folder.iterdir()) == []
    with writing(folder, other):
        (folder / "mlp_out.5").mkdir()
    write(folder, make())
    names = {path.name for path in folder.iterdir()}
    assert names == {MANIFEST, "prompts", "tokens", "resid_post.0", "mlp_act.11"}


def test_a_plan_is_made_from_what_has_been_begun(folder):
    with open_folder(folder, key()) as writer:
        assert (writer.begun, writer.stored_inputs()) == (None, None)
    with writing(folder, manifest()):
        pass
    with open_folder(folder, key()) as writer:
        assert writer.begun == manifest()
        assert writer.stored_inputs() == replace(manifest(), parts=(2, 1))
    write(folder, make())
    with open_folder(folder, key()) as writer:
        assert writer.begun == writer.stored_inputs() == complete()


def test_prompts_are_divided_by_their_tokens_too(folder):
    """4, 6 and 3 tokens: three parts of at most 6 tokens, two of at most 10."""
    write(folder, make(), per_part=3, tokens_per_part=6)
    assert read_manifest(folder).parts == (1, 1, 1)
    assert_same(read_activations(folder), make())
    shutil.rmtree(folder)
    write(folder, make("none"), per_part=3, tokens_per_part=10)
    assert read_manifest(folder).parts == (1, 2)
    assert_same(read_activations(folder), make("none"))


def test_values_are_computed_again_where_prompts_have_to_be_divided_again(folder):
    write(folder, make(), per_part=1)
    for name in (MANIFEST, "prompts/part-00002.parquet"):
        (folder / name).unlink()
    with writing(folder, manifest(per_part=2)) as to:
        assert to.missing == [0, 1]
    stray = folder / "mlp_act.11" / "part-00002.parquet"  # as if killed before it was removed
    for path in (stray, stray.with_name(".part-00000.parquet.0123.tmp")):
        path.write_bytes((folder / "prompts" / "part-00000.parquet").read_bytes())
    assert write(folder, make(), per_part=2) == [0, 1]
    assert len(list((folder / "mlp_act.11").iterdir())) == 2
    assert_same(read_activations(folder), make())


def test_values_that_cannot_be_read_for_a_moment_are_kept(folder, monkeypatch):
    with writing(folder, manifest()) as to:
        to.write_part(0, make())

    def fail(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(pq, "read_metadata", fail)
    with pytest.raises(StoreError, match="pool mean"):
        write(folder, make("none"))
    monkeypatch.undo()
    assert write(folder, make()) == [1]


def test_prompts_are_divided_as_planned_now_until_there_are_values(folder):
    """A machine with less memory could not continue with the parts of one with more."""
    for per_part, parts in ((3, (3,)), (1, (1, 1, 1))):
        with writing(folder, manifest(per_part=per_part)) as to:
            assert to.manifest.parts == parts
    with writing(folder, manifest(per_part=1)) as to:
        to.write_part(1, make())
    assert write(folder, make(), per_part=3) == [0, 2]
    assert_same(read_activations(folder), make())


def test_finished_parts_are_not_computed_again(folder):
    first, second = make(seed=1), make(seed=2)
    with writing(folder, manifest()) as to:
        to.write_part(1, first)
        assert to.missing == [0]
    # a folder that has begun keeps its division, whatever would be planned now
    assert write(folder, second, per_part=1) == [0]
    read = read_activations(folder)
    np.testing.assert_array_equal(read[MLP][:2], second[MLP][:2])
    np.testing.assert_array_equal(read[MLP][2:], first[MLP][2:])


def test_nonfinite_rows_are_counted_by_site_and_stay_with_their_parts(folder):
    with writing(folder, manifest()) as to:
        to.write_part(0, make(), {MLP: 2, RESID: 1})
    with writing(folder, manifest()) as to:
        assert to.values.nonfinite == {"mlp_act.11": 2, "resid_post.0": 1}
        to.write_part(1, make(), {MLP: 1})
        to.finish()
    assert read_manifest(folder).nonfinite == {"mlp_act.11": 3, "resid_post.0": 1}
    (folder / PARTS[0]).unlink()
    with writing(folder, manifest()) as to:
        assert (to.missing, to.values.nonfinite) == ([0], {"mlp_act.11": 1})
        assert not (folder / MANIFEST).exists()
        to.write_part(0, make())
        to.finish()
    assert read_manifest(folder).nonfinite == {"mlp_act.11": 1}


def test_a_later_run_on_another_device_is_noted(folder):
    write(folder, make())
    first = read_manifest(folder)
    assert first.later == ()
    (folder / PARTS[0]).unlink()
    other = replace(first.provenance, device="cuda:0", created="later")
    for provenance in (replace(first.provenance, created="later"), other, other):
        with writing(folder, replace(manifest(), provenance=provenance)):
            pass
    write(folder, replace(make(), provenance=other))
    last = read_manifest(folder)
    assert last.provenance == first.provenance
    assert last.later == (other, first.provenance)


def test_a_folder_that_holds_something_else_is_not_written_to(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "notes.txt" / "acts"):
        with pytest.raises(StoreError, match=str(path)):
            write(path, make())
    assert visible(tmp_path) == {"notes.txt"}
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", make())
    assert_same(read_activations(tmp_path / "empty"), make())


@pytest.mark.parametrize("exists", [True, False])
def test_refused_prompts_leave_a_folder_as_it_was(folder, exists):
    if exists:
        folder.mkdir()
    other = PromptSet((PROMPTS.prompts[0], Prompt("10", "other"), PROMPTS.prompts[2]))
    with pytest.raises(PromptError):  # they are not those of the digest
        write(folder, make(), prompts=other)
    with pytest.raises(PromptError), writing(folder, manifest(), tokenise=refuse):
        pass
    assert folder.exists() == exists
    assert not exists or list(folder.iterdir()) == []
    assert write(folder, make()) == [0, 1]
