"""The files of an atlas: prompts that are edited, and files that are damaged or cannot be saved."""

import json
import os
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from atlased import WORDS, AtlasSteps, merged_counts, query, topical_rows, write_rows

import neuroscope as ns
from neuroscope.errors import PromptError, ResourceError, StoreError
from neuroscope.extraction.models import load_model
from neuroscope.storage.atlas_intact import is_intact
from neuroscope.storage.locks import locked
from neuroscope.studies.atlas import merging, study
from neuroscope.studies.atlas.outputs import metric_points
from neuroscope.studies.atlas.summary import atlas_result

PROMPTS = 200


@pytest.fixture(scope="module")
def model(family_folder):
    return load_model(str(family_folder("bert")))


@pytest.fixture
def file(tmp_path):
    return write_rows(tmp_path / "prompts.jsonl", topical_rows(PROMPTS))


@pytest.fixture
def steps(model, file):
    return lambda **settings: AtlasSteps(model, file, **settings)


def changed(rows):
    return [row | {"text": f"other {row['text']}"} for row in rows]


EDITS = {
    "changed": changed,
    "appended": lambda rows: rows + changed(rows),
    "removed": lambda rows: rows[:-50],
    "reversed": lambda rows: rows[::-1],
    "without topics": lambda rows: [{"text": row["text"]} for row in rows],
}
"""What an editor does to the rows of a file."""


@pytest.fixture(params=sorted(EDITS))
def edit(request, file):
    return lambda: write_rows(file, EDITS[request.param](topical_rows(PROMPTS)))


@pytest.mark.parametrize("shards", [1, 3])
def test_an_atlas_has_the_texts_that_were_counted(steps, edit, shards, monkeypatch, tmp_path):
    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "undisturbed"))
    expected = query(steps(shards=shards).build(), "SELECT * FROM direction")
    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "edited"))
    atlas = steps(shards=shards)
    folders = atlas.count()
    edit()
    atlas.count = lambda: folders
    path = atlas.build()
    stored = query(path, "SELECT id, text FROM prompt ORDER BY prompt")
    assert stored["text"].tolist() == [row["text"] for row in topical_rows(PROMPTS)]
    assert stored["id"].tolist() == [str(number) for number in range(PROMPTS)]
    pd.testing.assert_frame_equal(query(path, "SELECT * FROM direction"), expected)


def test_prompts_edited_before_the_pilot_are_refused(steps, edit, file):
    atlas = steps()
    _ = atlas.experiment.prompt_set
    edit()
    with pytest.raises(PromptError, match=f"{file} has changed"):
        atlas.prepare()
    assert not list(atlas.files.path.iterdir())


def test_prompts_edited_during_the_pilot_are_refused(steps, edit, file):
    atlas = steps(prompt_template="About: {}")
    _ = atlas.experiment.topic_index
    edit()
    with pytest.raises(PromptError, match=f"{file} has changed"):
        atlas.prepare()
    assert not atlas.files.pilot.exists()


@pytest.mark.parametrize("shards", [1, 3])
def test_prompts_edited_before_they_are_counted_are_refused(steps, edit, shards):
    atlas = steps(shards=shards)
    atlas.prepare()
    edit()
    if shards > 1:
        with pytest.raises(PromptError, match="changed"):
            atlas.shards()
        return
    try:
        atlas.count()
    except PromptError as error:
        assert "changed" in error.problem
    else:  # rows that were appended are not read
        assert len(query(atlas.build(), "FROM prompt")) == PROMPTS


def test_damaged_files_are_made_again(steps):
    atlas = steps()
    path = atlas.build()
    pilot = atlas.files.pilot.read_bytes()
    topics = atlas.topics
    expected = query(path, "SELECT * FROM neuron ORDER BY neuron")
    for file in (atlas.files.pilot, atlas.files.topics, path):
        content = file.read_bytes()
        for damaged in (content[: len(content) // 2], b"", b"\0" * len(content)):
            file.write_bytes(damaged)
            again = steps()
            assert again.build() == path and file.stat().st_size > len(content) / 2
            assert is_intact(path)
    assert atlas.files.pilot.read_bytes() == pilot
    np.testing.assert_array_equal(atlas.topics.members, topics.members)
    rows = query(path, "SELECT * FROM neuron ORDER BY neuron")
    pd.testing.assert_frame_equal(rows, expected, check_exact=False, rtol=1e-5)


def test_a_truncated_atlas_is_not_intact(steps, tmp_path):
    path = steps().build()
    content = path.read_bytes()
    assert is_intact(path) and not is_intact(tmp_path / "absent.duckdb")
    for size in (0, 10, len(content) // 4, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.duckdb").write_bytes(content[:size])
        assert not is_intact(tmp_path / "cut.duckdb"), size


def test_folders_of_killed_processes_are_removed(steps):
    atlas = steps()
    atlas.prepare()
    left = atlas.files.path / f".{atlas.files.atlas(streamed=False).name}.0123abcd.tmp"
    left.mkdir()
    (left / "part").write_text("half")
    atlas.build()
    assert not left.exists()


@pytest.mark.parametrize("kind", ["topics", "pilot"])
def test_a_full_disk_is_reported_as_such(steps, monkeypatch, kind):
    atlas = steps()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, {"topics": "savez_compressed", "pilot": "savez"}[kind], full)
    with pytest.raises(ResourceError, match="No space left"):
        atlas.prepare()
    monkeypatch.undo()


def test_the_atlas_of_a_model_that_was_moved_has_its_new_path(family_folder, file, tmp_path):
    names = []
    for folder in ("old", "new"):
        if folder == "old":
            shutil.copytree(family_folder("bert"), tmp_path / "old")
        else:
            (tmp_path / "old").rename(tmp_path / "new")
        atlas = AtlasSteps(load_model(str(tmp_path / folder)), file)
        path = atlas.build()
        names.append(query(path, "SELECT name FROM model")["name"][0])
    assert names == [str(tmp_path / "old"), str(tmp_path / "new")]
    assert len(list(path.parent.glob("*.duckdb"))) == 2  # of the same counts


def test_a_file_that_appears_during_the_pass_stays(model, file, tmp_path):
    path = tmp_path / "a.duckdb"
    with pytest.raises(StoreError, match=r"a\.duckdb already exists"):
        ns.build_atlas(model, file, path, progress=lambda *_: path.write_text("mine"))
    assert path.read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.duckdb", "prompts.jsonl"]


def test_an_atlas_is_moved_on_a_disk_without_hard_links(model, file, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with ns.build_atlas(model, file, tmp_path / "a.duckdb") as atlas:
        assert len(atlas.topics()) == len(WORDS)
    path = tmp_path / "b.duckdb"
    with pytest.raises(StoreError, match=r"b\.duckdb already exists"):
        ns.build_atlas(model, file, path, progress=lambda *_: path.write_text("mine"))
    assert path.read_text() == "mine"


def test_a_file_that_cannot_be_moved_is_reported(model, file, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study, "move_to_new", full)
    with pytest.raises(ResourceError, match=r"a\.duckdb"):
        ns.build_atlas(model, file, tmp_path / "a.duckdb")


def test_temporary_folders_of_killed_builds_are_removed(model, file, tmp_path):
    """Those of a process that is alive, and folders of other programs, stay."""
    for name in ("killed", "alive", "foreign"):
        (tmp_path / f".a.duckdb-{name}").mkdir()
    (tmp_path / ".a.duckdb-killed" / ".build.lock").touch()
    with locked(tmp_path / ".a.duckdb-alive" / "build", lambda *_: None):
        ns.build_atlas(model, file, tmp_path / "a.duckdb").close()
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left == {".a.duckdb-alive", ".a.duckdb-foreign", "a.duckdb", "prompts.jsonl"}


def test_merging_needs_the_memory_of_one_part_at_one_site(steps):
    atlas = steps(shards=4, layers="all")
    folders = atlas.count()
    expected = merged_counts(atlas, folders)
    name, sites = atlas.files.statistics_name, atlas.spec.sites
    merging.merged_counts(folders, name, sites)
    tracemalloc.start()
    try:
        counts = merging.merged_counts(folders, name, sites)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    of_site = kept / len(sites)
    # 0.52, as stored counts are small; 0.78 if merging made a new array of the counts
    assert peak - kept < 0.65 * of_site, (peak - kept, of_site)
    for site in sites:
        np.testing.assert_array_equal(counts[site].counts, expected[site].counts)
        np.testing.assert_array_equal(counts[site].active, expected[site].active)
        np.testing.assert_array_equal(counts[site].moments[0].mean, expected[site].moments[0].mean)


def test_a_topic_without_a_direction_is_left_out_of_the_mean(model, file, tmp_path):
    path = tmp_path / "a.duckdb"
    ns.build_atlas(model, file, path).close()
    result = atlas_result(path, "bert")
    first = [
        replace(row, direction_auroc=np.nan) if row.topic == result.topics[0].topic else row
        for row in result.rows
    ]
    points = metric_points(replace(result, rows=tuple(first)))
    own = {p.step: p.value for p in points if p.metric == "layer/direction_auroc"}
    for layer in result.layers:
        rest = [r.direction_auroc for r in first if r.layer == layer][1:]
        assert own[layer] == pytest.approx(np.mean(rest))
    none = tuple(replace(row, direction_auroc=np.nan) for row in result.rows)
    assert not any("direction" in p.metric for p in metric_points(replace(result, rows=none)))
    assert json.dumps([p.value for p in points], allow_nan=False)
