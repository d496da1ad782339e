"""Folders of activations whose writer is killed: the next one ends what it began."""

import itertools
import os
from contextlib import suppress

import numpy as np
import pytest
from stored import (
    MLP,
    PARTS,
    RESID,
    VOCABULARY,
    Killed,
    assert_same,
    key,
    make,
    manifest,
    opened,
    write,
)

from neuroscope.errors import StoreError
from neuroscope.storage.activation_store import read_activations
from neuroscope.storage.manifest import MANIFEST
from neuroscope.storage.unfinished import (
    UNFINISHED,
    complete_manifest,
)


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
        with pytest.raises(StoreError, match=r"no complete activations .*same extraction"):
            read_activations(folder)
    whole = {path: path.stat().st_mtime_ns for path in folder.rglob("[!.]*/[!.]*.parquet")}
    missing = write(folder, make())
    assert missing == [number for number in (0, 1) if written < 7 + 2 * number]
    assert_same(read_activations(folder), make())
    if written >= 5:  # nothing that was whole is written again
        kept = {path for path, time in whole.items() if path.stat().st_mtime_ns == time}
        assert {path for path in whole if path.parent.name in ("prompts", "tokens")} <= kept


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


def not_begun(folder):
    pass


def begun_with_another_key(folder):
    with opened(folder, manifest("max")):
        pass


def divided_otherwise(folder):
    """And so it has to be done again, as a file of prompts is lost, too."""
    write(folder, make(), per_part=1)
    for name in (MANIFEST, "prompts/part-00002.parquet"):
        (folder / name).unlink()


def without_a_part(folder):
    write(folder, make())
    (folder / PARTS[0]).unlink()


def without_its_manifest(folder):
    write(folder, make())
    (folder / MANIFEST).unlink()


CHANGES = ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync")


def kill_after(patch, changes):
    """Ends the process, so to speak, after so many changes of the disk: none comes after that."""
    left = iter(range(changes))

    def unless_killed(change):
        def attempt(*arguments, **options):
            if next(left, None) is None:
                raise Killed
            return change(*arguments, **options)

        return attempt

    for name in CHANGES:
        patch.setattr(os, name, unless_killed(getattr(os, name)))


def contents(folder):
    """Path -> bytes, or none where it is a folder."""
    found = (path for path in folder.rglob("*") if path.name != ".lock")
    return {str(one.relative_to(folder)): one.is_file() and one.read_bytes() for one in found}


@pytest.mark.parametrize(
    "begin",
    [
        not_begun,
        begun_with_another_key,
        divided_otherwise,
        without_a_part,
        without_its_manifest,
    ],
)
def test_killed_at_any_change_of_the_disk_it_ends_as_if_undisturbed(tmp_path, begin):
    write(tmp_path / "new", make())
    whole = contents(tmp_path / "new")
    for changes in itertools.count():
        folder = tmp_path / str(changes)
        begin(folder)
        with pytest.MonkeyPatch.context() as patch:
            kill_after(patch, changes)
            with suppress(Killed):
                write(folder, make())
                break
        write(folder, make())
        assert contents(folder) == whole, changes
    assert contents(folder) == whole
    assert changes > 8
