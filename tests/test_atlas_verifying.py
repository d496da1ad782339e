"""A verified copy has the verdicts, equals the atlas otherwise, and is written atomically."""

import os
import shutil
import subprocess
import sys

import pytest
from atlases import HOSTILE, TOPICS, assert_same, write_small_atlas

from neuroscope.errors import ResourceError, StoreError
from neuroscope.storage import atlas_verifying
from neuroscope.storage.atlas_file import Atlas
from neuroscope.storage.atlas_verifying import Verification, verified_copy

ROWS = [
    Verification("mlp_act.1.3", "Sports", "confirmed", 0.5, 0.25, 0.75, 0.025),
    Verification("mlp_act.1.3", HOSTILE, "not confirmed", -0.5, -1, 0, 0.5),
    Verification("mlp_act.2.0", "World", "general", 1, 0.5, 1.5, 0.025),
    Verification("mlp_act.0.5", "World", "not confirmed", 0, 0, 0, 1),  # was general
]


@pytest.fixture
def atlas(tmp_path):
    path = tmp_path / "atlas.duckdb"
    return path, write_small_atlas(path)


def verified_tables(tables):
    """Return the tables as they are after `ROWS`."""
    neurons, entries = tables["neuron"].copy(), tables["selectivity"].copy()
    names = neurons["name"].tolist()
    for row in ROWS:
        neuron = names.index(row.neuron)
        entry = (entries["neuron"] == neuron) & (entries["topic"] == TOPICS.index(row.topic))
        for column in ("verified", "effect", "effect_low", "effect_high", "effect_p"):
            entries.loc[entry, column] = getattr(row, column)
        neurons.loc[neuron, "general"] = row.verified == "general"
    return tables | {"neuron": neurons, "selectivity": entries}


def test_only_the_tested_entries_differ_and_rows_keep_their_order(atlas, tmp_path):
    path, tables = atlas
    content = path.read_bytes()
    target = tmp_path / "new folder" / "verified.duckdb"
    assert verified_copy(path, target, ROWS) == target
    with Atlas.open(target) as verified:
        assert_same(verified, verified_tables(tables))
        found = verified.neurons("Sports", selective=False, verified=True)["neuron"].tolist()
        assert "mlp_act.1.3" in found
    assert path.read_bytes() == content
    assert os.listdir(target.parent) == ["verified.duckdb"]


def test_a_copy_can_be_copied_again_while_both_are_open(atlas, tmp_path):
    first, second = tmp_path / "first.duckdb", tmp_path / "second.duckdb"
    with Atlas.open(atlas[0]):
        verified_copy(atlas[0], first, ROWS[:1], "tested once")
        with Atlas.open(first):
            verified_copy(first, second, ROWS, "tested twice")
    with Atlas.open(second) as verified:
        assert list(verified.model()["notes"]) == ["first", "second", "tested once", "tested twice"]
        assert verified.sql("SELECT count(*) AS rows FROM selectivity")["rows"][0] == 96


def test_an_existing_file_is_never_overwritten(atlas, tmp_path, monkeypatch):
    target = tmp_path / "verified.duckdb"
    target.write_text("something else")
    with pytest.raises(StoreError, match=r"verified\.duckdb"):
        verified_copy(atlas[0], target, ROWS)
    target.unlink()
    update = atlas_verifying._update

    def create_meanwhile(*arguments):
        update(*arguments)
        target.write_text("something else")

    monkeypatch.setattr(atlas_verifying, "_update", create_meanwhile)
    with pytest.raises(StoreError, match=r"verified\.duckdb"):
        verified_copy(atlas[0], target, ROWS)
    assert target.read_text() == "something else"
    assert sorted(os.listdir(tmp_path)) == ["atlas.duckdb", "verified.duckdb"]


@pytest.mark.parametrize(("neuron", "topic"), [("mlp_act.9.9", "World"), ("mlp_act.1.3", "x' OR")])
def test_nothing_is_left_when_an_entry_does_not_exist(atlas, tmp_path, neuron, topic):
    wrong = Verification(neuron, topic, "confirmed", 1, 1, 1, 0)
    with pytest.raises(ValueError, match=topic):
        verified_copy(atlas[0], tmp_path / "verified.duckdb", [*ROWS, wrong])
    assert os.listdir(tmp_path) == ["atlas.duckdb"]


def test_files_that_are_no_atlas_and_folders_that_cannot_be_created_are_refused(atlas, tmp_path):
    (tmp_path / "text").write_text("name,topic\n")
    for source in ("text", "nothing"):
        with pytest.raises(StoreError, match=source):
            verified_copy(tmp_path / source, tmp_path / "verified.duckdb", ROWS)
    with pytest.raises(StoreError, match="text"):
        verified_copy(atlas[0], tmp_path / "text" / "verified.duckdb", ROWS)
    assert sorted(os.listdir(tmp_path)) == ["atlas.duckdb", "text"]


def test_a_full_disk_is_reported(atlas, tmp_path):
    folder = tmp_path / "full"
    folder.mkdir()
    source = shutil.copy(atlas[0], folder)
    script = (
        "import resource, sys; sys.path.insert(0, 'tests')\n"
        "from neuroscope.storage.atlas_verifying import verified_copy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try: verified_copy(sys.argv[1], sys.argv[2], [])\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    command = [sys.executable, "-c", script, source, str(folder / "verified.duckdb")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == f"{ResourceError.__name__}\n"
    assert os.listdir(folder) == ["atlas.duckdb"]
