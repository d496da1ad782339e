"""An atlas is written atomically and never changed; damaged and foreign files are refused."""

import os
import shutil
import sqlite3
import subprocess
import sys

import duckdb
import pytest
from atlases import assert_same, atlas_tables, write_small_atlas

from neuroscope.errors import NeuroscopeError, ResourceError, StoreError
from neuroscope.storage import atlas_writing
from neuroscope.storage.atlas_file import Atlas
from neuroscope.storage.atlas_schema import SCHEMA, TABLES
from neuroscope.storage.atlas_writing import write_atlas


@pytest.fixture
def tables():
    return atlas_tables()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("atlas") / "atlas.duckdb"
    return path, write_small_atlas(path)


def test_chunks_in_any_order_give_the_same_atlas(tmp_path, tables):
    def chunks(name, frame):
        rows = frame if name == "prompt" else frame.sample(frac=1, random_state=0)
        for start in range(0, len(rows), 7):
            yield rows[start : start + 7].sample(frac=1, axis=1, random_state=start)

    path = tmp_path / "atlas.duckdb"
    write_atlas(path, {name: chunks(name, frame) for name, frame in tables.items()})
    with Atlas.open(path) as atlas:
        assert_same(atlas, tables)


def test_prompts_out_of_order_are_refused(tmp_path, tables):
    for prompts in (tables["prompt"][::-1], tables["prompt"][1:]):
        with pytest.raises(ValueError, match="order"):
            write_atlas(tmp_path / "atlas.duckdb", tables | {"prompt": prompts})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_never_overwritten(tmp_path, tables):
    path = tmp_path / "atlas.duckdb"
    path.write_text("something else")
    with pytest.raises(StoreError, match=r"atlas\.duckdb"):
        write_atlas(path, tables)
    assert path.read_text() == "something else"
    assert os.listdir(tmp_path) == ["atlas.duckdb"]


def test_a_file_created_meanwhile_is_kept(tmp_path, tables):
    path = tmp_path / "atlas.duckdb"

    def frames():
        path.write_text("something else")
        yield tables["direction"]

    with pytest.raises(StoreError):
        write_atlas(path, {**tables, "direction": frames()})
    assert path.read_text() == "something else"
    assert os.listdir(tmp_path) == ["atlas.duckdb"]


def test_nothing_is_left_when_a_chunk_fails(tmp_path, tables):
    def failing():
        yield tables["selectivity"]
        raise RuntimeError("a chunk fails")

    with pytest.raises(RuntimeError, match="a chunk fails"):
        write_atlas(tmp_path / "atlas.duckdb", {**tables, "selectivity": failing()})
    assert os.listdir(tmp_path) == []


def change_column(tables, name, **values):
    tables[name] = tables[name].assign(**values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tables: tables.pop("prompt"), "missing tables: prompt"),
        (lambda tables: tables.update(extra=tables["topic"]), "unknown tables: extra"),
        (lambda tables: tables["topic"].pop("share"), "topic has missing columns: share"),
        (lambda tables: tables["neuron"].insert(0, "x", 1), "neuron has unknown columns: x"),
        (lambda tables: change_column(tables, "neuron", mean="x"), "neuron.*mean"),
        (lambda tables: change_column(tables, "prompt", tokens=2**40), "prompt.*tokens"),
        (lambda tables: tables["selectivity"].insert(0, "q", 1, True), "repeated columns: q"),
        (lambda tables: tables.update(model=tables["model"].head(0)), "model"),
        (lambda tables: change_column(tables, "topic", topic=None), "topic"),
    ],
)
def test_tables_that_do_not_match_the_schema_are_refused(tmp_path, change, words):
    tables = atlas_tables()
    change(tables)
    with pytest.raises(ValueError, match=words):
        write_atlas(tmp_path / "atlas.duckdb", tables)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_reported(tmp_path):
    script = (
        "import resource, sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path; from atlases import write_small_atlas\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try: write_small_atlas(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "atlas.duckdb")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == f"{ResourceError.__name__}\n"
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_created_is_reported(tmp_path, tables):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        write_atlas(tmp_path / "file" / "atlas.duckdb", tables)


@pytest.mark.parametrize(("version", "words"), [(0, "build"), (SCHEMA + 1, "newer neuroscope")])
def test_another_schema_is_refused(tmp_path, monkeypatch, version, words):
    path = tmp_path / "atlas.duckdb"
    monkeypatch.setattr(atlas_writing, "SCHEMA", version)
    write_small_atlas(path)
    with pytest.raises(StoreError, match=rf"schema {version}\b.*schema {SCHEMA}\b.*{words}"):
        Atlas.open(path)


def test_files_that_are_no_atlas_are_refused(tmp_path):
    (tmp_path / "text").write_text("name,topic\n")
    (tmp_path / "empty").touch()
    with sqlite3.connect(tmp_path / "sqlite") as database:
        database.execute("CREATE TABLE topic (name)")
    database.close()
    with duckdb.connect(str(tmp_path / "duckdb")) as connection:
        connection.execute("CREATE TABLE topic (name VARCHAR)")
    (tmp_path / "folder").mkdir()
    for name in ("text", "empty", "sqlite", "duckdb", "folder", "nothing"):
        with pytest.raises(StoreError, match=name):
            Atlas.open(tmp_path / name)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path, written, share):
    content = written[0].read_bytes()
    path = tmp_path / "atlas.duckdb"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StoreError, match=r"atlas\.duckdb"), Atlas.open(path) as atlas:
        for name in TABLES:
            atlas.sql(f"FROM {name}")


def test_a_changed_byte_is_reported(tmp_path, written):
    content = written[0].read_bytes()
    path = tmp_path / "atlas.duckdb"
    offset = content.index(b"goal")
    path.write_bytes(content[:offset] + b"G" + content[offset + 1 :])
    with pytest.raises(StoreError, match=r"atlas\.duckdb"), Atlas.open(path) as atlas:
        atlas.sql("FROM neuron")


@pytest.mark.parametrize(
    "offset", [0, 4, 12, 4096, 4104, 8192, 8200, 12288, 12300, 0.3, 0.5, 0.7, 0.9]
)
def test_changed_bytes_are_damage_and_not_a_lock(tmp_path, written, offset):
    content = bytearray(written[0].read_bytes())
    start = offset if isinstance(offset, int) else int(offset * len(content))
    for index in range(start, start + 4):
        content[index] ^= 0xFF
    path = tmp_path / "locked block.duckdb"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged.*build the atlas again"):
        read_all(path)


def read_all(path):
    with Atlas.open(path) as atlas:
        for name in TABLES:
            atlas.sql(f"FROM {name}")


def test_a_file_that_another_process_writes_is_refused(tmp_path, written):
    path = tmp_path / "atlas.duckdb"
    shutil.copy(written[0], path)
    script = f"import duckdb; c = duckdb.connect({str(path)!r}); print(1); input()"
    command = [sys.executable, "-uc", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"1\n"
        with pytest.raises(StoreError, match="open for writing"):
            Atlas.open(path)
        process.communicate(b"\n")
    Atlas.open(path).close()


def test_a_server_reads_only_its_folders(written, tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROSCOPE_ROOTS", str(tmp_path))
    with pytest.raises(NeuroscopeError, match="outside"):
        Atlas.open(written[0])


def test_nobody_can_write_to_a_finished_file(tmp_path):
    write_small_atlas(tmp_path / "atlas.duckdb")
    assert (tmp_path / "atlas.duckdb").stat().st_mode & 0o777 == 0o444
