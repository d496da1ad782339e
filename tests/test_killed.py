"""Folders of activations whose writer is killed: the next one ends as if undisturbed."""

import itertools
from contextlib import suppress

import pytest
from stored import (
    MLP,
    PARTS,
    Killed,
    Lengths,
    assert_same,
    finished_parts,
    key,
    kill_after,
    make,
    manifest,
    write,
    writing,
)

from neuroscope.storage.activation_store import read_activations
from neuroscope.storage.manifest import MANIFEST, UNFINISHED
from neuroscope.storage.statistics import read_statistics
from neuroscope.storage.writing import Request, complete_manifest


def contents(folder):
    """Path -> bytes, or False for a folder."""
    return {
        str(path.relative_to(folder)): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


def nothing(folder):
    pass


def begun_with_another_key(folder):
    with writing(folder, manifest("max")):
        pass


def divided_otherwise(folder):
    """And to be divided again, as a file of prompts is lost too."""
    write(folder, make(), per_part=1)
    for name in (MANIFEST, "prompts/part-00002.parquet"):
        (folder / name).unlink()


def without_a_part(folder):
    write(folder, make())
    (folder / PARTS[0]).unlink()


def without_its_manifest(folder):
    write(folder, make())
    (folder / MANIFEST).unlink()


def with_values(folder):
    write(folder, make())


def with_large_parts_of_statistics(folder):
    write(folder, make(), per_part=3, values=False, statistics=[Lengths()])


def without_a_part_of_statistics(folder):
    write(folder, make(), statistics=[Lengths()])
    (folder / "lengths-1" / "part-00001.npz").unlink()


BEGINNINGS = [
    *(nothing, begun_with_another_key, divided_otherwise, without_a_part, without_its_manifest),
    *(with_values, with_large_parts_of_statistics, without_a_part_of_statistics),
]


@pytest.mark.parametrize(
    ("begin", "options"),
    [(nothing, {}), *((begin, {"statistics": [Lengths()]}) for begin in BEGINNINGS)],
)
def test_killed_at_any_change_of_the_disk_it_ends_as_if_undisturbed(tmp_path, begin, options):
    write(tmp_path / "new", make(), **options)
    whole = contents(tmp_path / "new")
    for changes in itertools.count():
        folder = tmp_path / str(changes)
        begin(folder)
        with pytest.MonkeyPatch.context() as patch:
            kill_after(patch, changes)
            with suppress(Killed):
                write(folder, make(), **options)
                break
        write(folder, make(), **options)
        assert contents(folder) == whole, changes
    assert contents(folder) == whole


def test_finished_parts_of_every_sink_survive_a_kill(tmp_path):
    """Whatever is killed while both are written, no finished file is written again."""
    for changes in itertools.count():
        folder = tmp_path / str(changes)
        with pytest.MonkeyPatch.context() as patch:
            kill_after(patch, changes)
            with suppress(Killed):
                write(folder, make(), statistics=[Lengths()])
                break
        before = finished_parts(folder, make().sites)
        write(folder, make(), statistics=[Lengths()])
        assert before.items() <= finished_parts(folder, make().sites).items(), changes


def test_killed_while_statistics_are_added_the_values_stay_complete(folder):
    write(folder, make())
    before = contents(folder)
    with suppress(Killed), writing(folder, manifest(), statistics=[Lengths()]) as to:
        to.write_part(0, make())
        raise Killed
    assert before.items() <= contents(folder).items()
    assert complete_manifest(folder, Request(key())) is not None
    assert_same(read_activations(folder), make())
    with writing(folder, manifest(), statistics=[Lengths()]) as to:
        assert to.missing == [1]
        to.write_part(1, make())
        to.finish()
    assert [arrays["first"] for arrays in read_statistics(folder, "lengths-1")] == [0, 2]


def test_counts_are_kept_where_only_the_last_step_is_killed(folder):
    """The manifest is complete, and that of the unfinished folder is still there."""
    with writing(folder, manifest(per_part=3)) as to:
        to.write_part(0, make(), {MLP: 2})
        left = (folder / UNFINISHED).read_bytes()
        to.finish()
    (folder / UNFINISHED).write_bytes(left)
    assert complete_manifest(folder, Request(key())) is None
    with writing(folder, manifest(per_part=3)) as to:
        assert (to.missing, to.values.nonfinite) == ([], {"mlp_act.11": 2})
        to.finish()
    assert complete_manifest(folder, Request(key())).nonfinite == {"mlp_act.11": 2}
    assert not (folder / UNFINISHED).exists()
