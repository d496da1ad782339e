"""Writing folders of activations: resuming, taking over, and leaving a folder unchanged."""

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
    key,
    make_activations,
    manifest,
    manifest_with_values,
    refuse,
    visible_names,
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
    ("changes", "differences"),
    [
        ({"pool": "max"}, ["pool mean"]),
        ({"dtype": "bfloat16", "truncated": True}, ["truncated False", "dtype float32"]),
        ({"fingerprint": "e" * 64, "prompts_digest": "x"}, ["model", "prompts"]),
        ({"sites": (RESID,)}, ["resid_post.0, mlp_act.11"]),
        ({"composition": Composition(99, shuffle=7)}, ["composition"]),
    ],
)
def test_activations_of_another_key_are_kept_and_differences_reported(folder, changes, differences):
    write(folder, make_activations())
    assert complete_manifest(folder, Request(key(**changes))) is None
    with (
        pytest.raises(StoreError) as raised,
        writing(folder, replace(manifest(), key=key(**changes))),
    ):
        pass
    assert all(text in raised.value.problem for text in differences)
    assert str(folder) in raised.value.problem
    assert_same(read_activations(folder), make_activations())


def test_differences_between_compositions_are_reported():
    first, second = (key(composition=Composition(budget, 7, "left")) for budget in (64, 99))
    (difference,) = first.differences(second)
    assert "64" in difference and "7" in difference and "left" in difference


def test_a_folder_begun_with_another_key_is_taken_over_unless_it_holds_values(folder):
    for pool in ("max", "none"):
        with writing(folder, manifest(pool)):
            pass
    with writing(folder, manifest("none")) as writer:
        writer.write_part(1, make_activations("none"))
    with pytest.raises(StoreError, match="pool none"):
        write(folder, make_activations())
    (folder / PARTS[1]).unlink()
    (folder / "resid_post.0" / "part-00001.parquet").unlink()
    assert write(folder, make_activations()) == [0, 1]
    assert_same(read_activations(folder), make_activations())


def test_a_folder_with_statistics_of_another_key_is_kept(folder):
    write(folder, make_activations("max"), values=False, statistics=[Lengths()])
    with pytest.raises(StoreError, match="pool max"):
        write(folder, make_activations())
    (folder / MANIFEST).rename(folder / UNFINISHED)
    with pytest.raises(StoreError, match="pool max"):
        write(folder, make_activations())


def test_an_unfinished_folder_of_another_key_is_cleared(folder):
    """A process that takes the folder over clears it, as does one whose prompts are refused."""
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
    write(folder, make_activations())
    names = {path.name for path in folder.iterdir()}
    assert names == {MANIFEST, "prompts", "tokens", "resid_post.0", "mlp_act.11"}


def test_the_writer_reads_the_plan_of_an_unfinished_folder(folder):
    with open_folder(folder, key()) as writer:
        assert (writer.begun, writer.stored_inputs()) == (None, None)
    with writing(folder, manifest()):
        pass
    with open_folder(folder, key()) as writer:
        assert writer.begun == manifest()
        assert writer.stored_inputs() == replace(manifest(), parts=(2, 1))
    write(folder, make_activations())
    with open_folder(folder, key()) as writer:
        assert writer.begun == writer.stored_inputs() == manifest_with_values()


def test_prompts_are_also_divided_by_their_tokens(folder):
    """4, 6 and 3 tokens: three parts of at most 6 tokens, two of at most 10."""
    write(folder, make_activations(), per_part=3, tokens_per_part=6)
    assert read_manifest(folder).parts == (1, 1, 1)
    assert_same(read_activations(folder), make_activations())
    shutil.rmtree(folder)
    write(folder, make_activations("none"), per_part=3, tokens_per_part=10)
    assert read_manifest(folder).parts == (1, 2)
    assert_same(read_activations(folder), make_activations("none"))


def test_values_are_computed_again_if_prompts_must_be_divided_again(folder):
    write(folder, make_activations(), per_part=1)
    for name in (MANIFEST, "prompts/part-00002.parquet"):
        (folder / name).unlink()
    with writing(folder, manifest(per_part=2)) as writer:
        assert writer.missing == [0, 1]
    stray = folder / "mlp_act.11" / "part-00002.parquet"  # as if killed before it was removed
    for path in (stray, stray.with_name(".part-00000.parquet.0123.tmp")):
        path.write_bytes((folder / "prompts" / "part-00000.parquet").read_bytes())
    assert write(folder, make_activations(), per_part=2) == [0, 1]
    assert len(list((folder / "mlp_act.11").iterdir())) == 2
    assert_same(read_activations(folder), make_activations())


def test_values_that_cannot_be_read_temporarily_are_kept(folder, monkeypatch):
    with writing(folder, manifest()) as writer:
        writer.write_part(0, make_activations())

    def fail(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(pq, "read_metadata", fail)
    with pytest.raises(StoreError, match="pool mean"):
        write(folder, make_activations("none"))
    monkeypatch.undo()
    assert write(folder, make_activations()) == [1]


def test_prompts_are_divided_by_the_new_plan_until_values_exist(folder):
    """A machine with less memory could not resume with the parts of one with more memory."""
    for per_part, parts in ((3, (3,)), (1, (1, 1, 1))):
        with writing(folder, manifest(per_part=per_part)) as writer:
            assert writer.manifest.parts == parts
    with writing(folder, manifest(per_part=1)) as writer:
        writer.write_part(1, make_activations())
    assert write(folder, make_activations(), per_part=3) == [0, 2]
    assert_same(read_activations(folder), make_activations())


def test_finished_parts_are_not_computed_again(folder):
    first, second = make_activations(seed=1), make_activations(seed=2)
    with writing(folder, manifest()) as writer:
        writer.write_part(1, first)
        assert writer.missing == [0]
    # an unfinished folder keeps its division, whatever the new plan
    assert write(folder, second, per_part=1) == [0]
    read = read_activations(folder)
    np.testing.assert_array_equal(read[MLP][:2], second[MLP][:2])
    np.testing.assert_array_equal(read[MLP][2:], first[MLP][2:])


def test_nonfinite_rows_are_counted_by_site_and_by_part(folder):
    with writing(folder, manifest()) as writer:
        writer.write_part(0, make_activations(), {MLP: 2, RESID: 1})
    with writing(folder, manifest()) as writer:
        assert writer.values.nonfinite == {"mlp_act.11": 2, "resid_post.0": 1}
        writer.write_part(1, make_activations(), {MLP: 1})
        writer.finish()
    assert read_manifest(folder).nonfinite == {"mlp_act.11": 3, "resid_post.0": 1}
    (folder / PARTS[0]).unlink()
    with writing(folder, manifest()) as writer:
        assert (writer.missing, writer.values.nonfinite) == ([0], {"mlp_act.11": 1})
        assert not (folder / MANIFEST).exists()
        writer.write_part(0, make_activations())
        writer.finish()
    assert read_manifest(folder).nonfinite == {"mlp_act.11": 1}


def test_a_later_run_on_another_device_is_noted(folder):
    write(folder, make_activations())
    first = read_manifest(folder)
    assert first.later == ()
    (folder / PARTS[0]).unlink()
    other = replace(first.provenance, device="cuda:0", created="later")
    for provenance in (replace(first.provenance, created="later"), other, other):
        with writing(folder, replace(manifest(), provenance=provenance)):
            pass
    write(folder, replace(make_activations(), provenance=other))
    last = read_manifest(folder)
    assert last.provenance == first.provenance
    assert last.later == (other, first.provenance)


def test_a_folder_with_other_files_is_not_written_to(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "notes.txt" / "acts"):
        with pytest.raises(StoreError, match=str(path)):
            write(path, make_activations())
    assert visible_names(tmp_path) == {"notes.txt"}
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", make_activations())
    assert_same(read_activations(tmp_path / "empty"), make_activations())


@pytest.mark.parametrize("exists", [True, False])
def test_refused_prompts_leave_a_folder_as_it_was(folder, exists):
    if exists:
        folder.mkdir()
    other = PromptSet((PROMPTS.prompts[0], Prompt("10", "other"), PROMPTS.prompts[2]))
    with pytest.raises(PromptError):  # they do not match the digest
        write(folder, make_activations(), prompts=other)
    with pytest.raises(PromptError), writing(folder, manifest(), tokenise=refuse):
        pass
    assert folder.exists() == exists
    assert not exists or list(folder.iterdir()) == []
    assert write(folder, make_activations()) == [0, 1]
