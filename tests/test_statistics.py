"""Stored statistics: arrays in one file per part, verified like the Parquet files."""

import shutil
import zipfile

import numpy as np
import pytest
from stored import Lengths, make_activations, write

from neuroscope.errors import StoreError
from neuroscope.storage.activation_store import read_activations, read_parts
from neuroscope.storage.manifest import MANIFEST, read_manifest
from neuroscope.storage.parts import Part
from neuroscope.storage.statistics import (
    check_name,
    read_arrays,
    read_statistics,
    verified_arrays,
    write_arrays,
)

PART = Part("k" * 32, "norms-1", number=3, first=40, prompts=7)
ARRAYS = {
    "sum": np.arange(12.0).reshape(3, 4),
    "empty": np.array([], "f4"),
    "mlp_act.3/words": np.array(["x", "yy"]),
    "count": np.array(5),
}


def equal_arrays(arrays, expected):
    return list(arrays) == list(expected) and all(
        arrays[name].dtype == expected[name].dtype and np.array_equal(arrays[name], expected[name])
        for name in arrays
    )


def test_arrays_are_read_back_exactly(folder):
    folder.mkdir()
    size = write_arrays(folder, PART, ARRAYS)
    path = folder / "norms-1" / "part-00003.npz"
    assert size == path.stat().st_size
    assert verified_arrays(folder, PART)
    assert equal_arrays(read_arrays(folder, PART), ARRAYS)
    content = path.read_bytes()
    assert write_arrays(folder, PART, ARRAYS) == 0
    assert path.read_bytes() == content
    with pytest.raises(ValueError, match="Object arrays"):
        write_arrays(folder, PART, {"objects": np.array([{}])})
    assert path.read_bytes() == content


def test_only_the_arrays_asked_for_are_read(folder, monkeypatch):
    folder.mkdir()
    write_arrays(folder, PART, {"a/x": np.arange(3), "b/x": np.arange(4), "a/y": np.ones(2)})
    opened, entry = [], zipfile.ZipFile.open

    def recorded(archive, name, *arguments, **settings):
        opened.append(getattr(name, "filename", name))
        return entry(archive, name, *arguments, **settings)

    monkeypatch.setattr(zipfile.ZipFile, "open", recorded)
    arrays = read_arrays(folder, PART, "a/")
    assert list(arrays) == ["a/x", "a/y"]
    assert arrays["a/x"].tolist() == [0, 1, 2] and arrays["a/y"].tolist() == [1, 1]
    assert "a/x.npy" in opened and "b/x.npy" not in opened


def test_every_damage_is_detected(folder):
    """A changed byte is refused unless it changes no value; a truncated file is refused."""
    folder.mkdir()
    write_arrays(folder, PART, ARRAYS)
    path = PART.path(folder, ".npz")
    content = path.read_bytes()
    refused = 0
    for offset in range(len(content)):
        path.unlink()  # ext4 waits for the disk when a file is overwritten
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 255]) + content[offset + 1 :])
        try:
            assert equal_arrays(read_arrays(folder, PART), ARRAYS), offset
        except StoreError as error:
            assert str(path) in error.problem
            refused += 1
        path.unlink()
        path.write_bytes(content[:offset])
        assert not verified_arrays(folder, PART)
        with pytest.raises(StoreError, match="part-00003"):
            read_arrays(folder, PART)
    assert refused > 0.8 * len(content)


@pytest.mark.parametrize("write_other", [np.save, np.savez])
def test_files_of_other_programs_are_refused(folder, write_other):
    (folder / "norms-1").mkdir(parents=True)
    with PART.path(folder, ".npz").open("wb") as file:
        write_other(file, np.arange(3))
    assert not verified_arrays(folder, PART)
    with pytest.raises(StoreError, match="part-00003"):
        read_arrays(folder, PART)


def test_statistics_of_all_parts_are_read_in_order(folder):
    write(folder, make_activations(), statistics=[Lengths()])
    parts = list(read_statistics(str(folder), "lengths-1"))
    assert [part["ids"].tolist() for part in parts] == [["z", "10"], ["9"]]
    assert [part["lengths"].tolist() for part in parts] == [[4, 6], [3]]
    assert [part["first"].item() for part in parts] == [0, 2]
    with pytest.raises(StoreError, match="norms-1"):
        read_statistics(folder, "norms-1")


@pytest.mark.parametrize("fault", ["missing", "truncated", "displaced", "foreign"])
def test_a_faulty_part_is_reported_and_only_it_is_computed_again(folder, tmp_path, fault):
    write(folder, make_activations(), statistics=[Lengths()])
    first, second = sorted((folder / "lengths-1").iterdir())
    if fault == "missing":
        second.unlink()
    elif fault == "truncated":
        second.write_bytes(second.read_bytes()[:-9])
    elif fault == "displaced":
        shutil.copy(first, second)
    else:
        write(tmp_path / "other", make_activations("max"), statistics=[Lengths()])
        shutil.copy(tmp_path / "other" / "lengths-1" / second.name, second)
    parts = read_statistics(folder, "lengths-1")
    next(parts)
    with pytest.raises(StoreError, match=str(second)):
        next(parts)
    before = first.stat().st_mtime_ns
    assert write(folder, make_activations(), statistics=[Lengths()]) == [1]
    assert first.stat().st_mtime_ns == before
    assert len(list(read_statistics(folder, "lengths-1"))) == 2


def test_a_folder_of_statistics_alone_holds_no_values(folder):
    write(folder, make_activations(), values=False, statistics=[Lengths()])
    assert {path.name for path in folder.iterdir()} == {MANIFEST, "prompts", "tokens", "lengths-1"}
    manifest = read_manifest(folder)
    assert (manifest.values, manifest.statistics) == (False, ("lengths-1",))
    for read in (read_activations, read_parts):
        with pytest.raises(StoreError, match=str(folder)):
            read(folder, "mlp_act")
    assert read_activations(folder, []).prompts == make_activations().prompts
    assert write(folder, make_activations(), values=False, statistics=[Lengths()]) == []


def test_values_are_added_to_statistics_whose_parts_are_small_enough(folder):
    write(folder, make_activations(), values=False, statistics=[Lengths()])
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/part-*")}
    assert write(folder, make_activations()) == [0, 1]
    manifest = read_manifest(folder)
    assert (manifest.values, manifest.statistics) == (True, ("lengths-1",))
    after = {path: path.stat().st_mtime_ns for path in folder.glob("*/part-*")}
    assert before.items() <= after.items()


def test_statistics_are_discarded_if_their_parts_are_too_large_for_values(folder, caplog):
    write(folder, make_activations(), per_part=3, values=False, statistics=[Lengths()])
    with caplog.at_level("WARNING", "neuroscope"):
        assert write(folder, make_activations(), per_part=1) == [0, 1, 2]
    assert "lengths-1" in caplog.text
    manifest = read_manifest(folder)
    assert (manifest.parts, manifest.statistics) == ((1, 1, 1), ())
    assert not (folder / "lengths-1").exists()


@pytest.mark.parametrize("name", ["prompts", "mlp_act.3", "Norms-1", "norms", ".norms-1", "a/b-1"])
def test_names_that_other_tables_could_have_are_refused(name):
    check_name("token_norms-3f2a-v2")
    with pytest.raises(ValueError, match=name):
        check_name(name)
