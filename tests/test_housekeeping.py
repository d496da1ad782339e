"""Listing the store, and removing activations that are no longer used."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from stored import (
    PARTS,
    PROMPTS,
    Killed,
    Lengths,
    add_to_store,
    key,
    kill_after,
    make_activations,
    manifest,
    write,
    writing,
)

from neuroscope.errors import StoreError
from neuroscope.storage.activation_store import read_activations, store_folder
from neuroscope.storage.housekeeping import list_store, prune_store
from neuroscope.storage.manifest import MANIFEST


def test_the_store_is_listed_with_the_last_used_first(home):
    assert list_store() == []
    old, new = add_to_store("max", days=9), add_to_store("mean", days=2, statistics=[Lengths()])
    first, second = list_store()
    assert (first.folder, second.folder) == (new, old)
    assert first.state == second.state == "complete"
    assert first.bytes == sum(path.stat().st_size for path in new.rglob("*.*") if path.is_file())
    assert datetime.now(UTC) - first.last_used == pytest.approx(
        timedelta(days=2), abs=timedelta(minutes=1)
    )
    document = json.loads(json.dumps(first.to_dict()))
    assert document["folder"] == str(new)
    assert document["sites"] == ["resid_post.0", "mlp_act.11"]
    assert (document["model"], document["prompts"], document["pool"]) == ("tiny", 3, "mean")
    assert (document["token_rule"], document["dtype"]) == ("content", "float32")
    assert (document["values"], document["statistics"]) == (True, ["lengths-1"])


def test_unfinished_and_damaged_folders_are_listed_as_such(home):
    pools = ("mean", "max", "first")
    incomplete, truncated, without_manifest = (add_to_store(pool) for pool in pools)
    (incomplete / PARTS[0]).unlink()
    (truncated / MANIFEST).write_text("{")
    (without_manifest / MANIFEST).unlink()
    with writing(store_folder(key("last")), manifest("last")):
        pass
    states = {entry.folder: entry.state for entry in list_store()}
    assert states == {
        incomplete: "damaged",
        truncated: "damaged",
        without_manifest: "damaged",
        store_folder(key("last")): "unfinished",
    }
    assert len(prune_store().removed) == 4
    assert list_store() == []


def test_folders_are_removed_by_the_time_since_their_last_use(home):
    old, new = add_to_store("max", days=9), add_to_store("mean", days=2)
    freed = sum(path.stat().st_size for path in old.rglob("*") if path.is_file())
    pruned = prune_store(timedelta(days=7))
    assert [entry.folder for entry in pruned.removed] == [old]
    assert pruned.bytes_freed == freed
    assert not old.exists()
    assert read_activations(new).prompts == PROMPTS
    assert [entry.folder for entry in prune_store().removed] == [new]
    assert prune_store().removed == ()


def test_a_folder_that_is_being_written_is_kept(home):
    folder = store_folder(key())
    with writing(folder, manifest()) as writer:
        writer.write_part(0, make_activations())
        pruned = prune_store()
        assert (pruned.removed, pruned.in_use) == ((), (folder,))
        writer.write_part(1, make_activations())
        writer.finish()
    assert read_activations(folder).prompts == PROMPTS
    assert [entry.folder for entry in prune_store().removed] == [folder]


def test_other_files_in_the_store_are_neither_listed_nor_removed(home, tmp_path):
    root = home / "activations"
    folder = add_to_store()
    (root / "notes").mkdir()
    (root / ("a" * 32)).mkdir()
    (root / ("a" * 32) / "notes.txt").write_text("mine")
    (root / ("b" * 32)).write_text("a file")
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, make_activations())
    (root / ("c" * 32)).symlink_to(elsewhere)
    assert [entry.folder for entry in prune_store().removed] == [folder]
    names = {path.name for path in root.iterdir() if not path.name.startswith(".")}
    assert names == {"notes", "a" * 32, "b" * 32, "c" * 32}
    assert read_activations(elsewhere).prompts == PROMPTS


def test_a_folder_that_cannot_be_removed_is_reported(home, monkeypatch):
    folder = add_to_store()

    def fail(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.rmtree", fail)
    with pytest.raises(StoreError, match=str(folder)):
        prune_store()


@pytest.mark.parametrize("lost", [[], [MANIFEST]])
@pytest.mark.parametrize("changes", range(6))
def test_a_removal_that_is_killed_can_be_resumed(home, lost, changes):
    folder = add_to_store()
    for name in lost:
        (folder / name).unlink()
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, changes)
        with suppress(Killed):
            prune_store()
    assert [entry.folder for entry in list_store()] == [folder]
    assert [entry.folder for entry in prune_store().removed] == [folder]
    assert not folder.exists()
