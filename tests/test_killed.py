"""Folders of activations whose writer is killed: the next writer ends as if undisturbed."""

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
    make_activations,
    manifest,
    write,
    writing,
)

from neuroscope.storage.activation_store import read_activations
from neuroscope.storage.manifest import MANIFEST, UNFINISHED
from neuroscope.storage.statistics import read_statistics
from neuroscope.storage.writing import Request, complete_manifest


def contents(folder):
    """Return the bytes of each path, False for a folder."""
    return {
        str(path.relative_to(folder)): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


def start_empty(folder):
    pass


def start_with_another_key(folder):
    with writing(folder, manifest("max")):
        pass


def start_with_smaller_parts(folder):
    """Without a manifest and a file of prompts, the prompts must be divided again."""
    write(folder, make_activations(), per_part=1)
    for name in (MANIFEST, "prompts/part-00002.parquet"):
        (folder / name).unlink()


def start_without_a_part(folder):
    write(folder, make_activations())
    (folder / PARTS[0]).unlink()


def start_without_the_manifest(folder):
    write(folder, make_activations())
    (folder / MANIFEST).unlink()


def start_with_values(folder):
    write(folder, make_activations())


def start_with_large_parts_of_statistics(folder):
    write(folder, make_activations(), per_part=3, values=False, statistics=[Lengths()])


def start_without_a_part_of_statistics(folder):
    write(folder, make_activations(), statistics=[Lengths()])
    (folder / "lengths-1" / "part-00001.npz").unlink()


STARTS = [
    *(start_empty, start_with_another_key, start_with_smaller_parts, start_without_a_part),
    *(start_without_the_manifest, start_with_values, start_with_large_parts_of_statistics),
    start_without_a_part_of_statistics,
]


@pytest.mark.parametrize(
    ("start", "options"),
    [(start_empty, {}), *((start, {"statistics": [Lengths()]}) for start in STARTS)],
)
def test_a_kill_at_any_change_to_the_disk_does_not_change_the_result(tmp_path, start, options):
    write(tmp_path / "new", make_activations(), **options)
    expected = contents(tmp_path / "new")
    for changes in itertools.count():
        folder = tmp_path / str(changes)
        start(folder)
        with pytest.MonkeyPatch.context() as patch:
            kill_after(patch, changes)
            with suppress(Killed):
                write(folder, make_activations(), **options)
                break
        write(folder, make_activations(), **options)
        assert contents(folder) == expected, changes
    assert contents(folder) == expected


def test_finished_parts_of_every_sink_survive_a_kill(tmp_path):
    """No finished file is written again, wherever the writer of both is killed."""
    for changes in itertools.count():
        folder = tmp_path / str(changes)
        with pytest.MonkeyPatch.context() as patch:
            kill_after(patch, changes)
            with suppress(Killed):
                write(folder, make_activations(), statistics=[Lengths()])
                break
        before = finished_parts(folder, make_activations().sites)
        write(folder, make_activations(), statistics=[Lengths()])
        assert before.items() <= finished_parts(folder, make_activations().sites).items(), changes


def test_values_stay_complete_if_adding_statistics_is_killed(folder):
    write(folder, make_activations())
    before = contents(folder)
    with suppress(Killed), writing(folder, manifest(), statistics=[Lengths()]) as writer:
        writer.write_part(0, make_activations())
        raise Killed
    assert before.items() <= contents(folder).items()
    assert complete_manifest(folder, Request(key())) is not None
    assert_same(read_activations(folder), make_activations())
    with writing(folder, manifest(), statistics=[Lengths()]) as writer:
        assert writer.missing == [1]
        writer.write_part(1, make_activations())
        writer.finish()
    assert [arrays["first"] for arrays in read_statistics(folder, "lengths-1")] == [0, 2]


def test_counts_are_kept_if_only_the_last_step_is_killed(folder):
    """The manifest is complete, and the manifest of the unfinished folder still exists."""
    with writing(folder, manifest(per_part=3)) as writer:
        writer.write_part(0, make_activations(), {MLP: 2})
        unfinished = (folder / UNFINISHED).read_bytes()
        writer.finish()
    (folder / UNFINISHED).write_bytes(unfinished)
    assert complete_manifest(folder, Request(key())) is None
    with writing(folder, manifest(per_part=3)) as writer:
        assert (writer.missing, writer.values.nonfinite) == ([], {"mlp_act.11": 2})
        writer.finish()
    assert complete_manifest(folder, Request(key())).nonfinite == {"mlp_act.11": 2}
    assert not (folder / UNFINISHED).exists()
