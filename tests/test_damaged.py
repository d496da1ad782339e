"""Stored activations whose files are damaged, lost, foreign or unreadable."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored import PARTS, assert_same, key, make_activations, write

from neuroscope.errors import StoreError
from neuroscope.storage.activation_store import read_activations
from neuroscope.storage.keys import SCHEMA
from neuroscope.storage.manifest import MANIFEST, UNFINISHED
from neuroscope.storage.writing import Request, complete_manifest

REQUEST = Request(key())


@pytest.mark.parametrize("lost", [[MANIFEST], [MANIFEST, PARTS[0]]])
def test_a_lost_manifest_is_restored_from_the_parts(folder, lost):
    write(folder, make_activations())
    for name in lost:
        (folder / name).unlink()
    with pytest.raises(StoreError, match=str(folder)):
        write(folder, make_activations("max"))
    # the stored division is kept, whatever the new plan
    assert write(folder, make_activations(), per_part=1) == [0][: len(lost) - 1]
    assert_same(read_activations(folder), make_activations())


@pytest.mark.parametrize("table", ["resid_post.0", "tokens"])
def test_a_part_of_other_activations_is_not_accepted(folder, tmp_path, table):
    write(folder, make_activations("mean"))
    write(tmp_path / "other", make_activations("max"))
    name = f"{table}/part-00001.parquet"
    shutil.copy(tmp_path / "other" / name, folder / name)
    assert complete_manifest(folder, REQUEST) is None
    with pytest.raises(StoreError, match=name):
        read_activations(folder)
    assert write(folder, make_activations("mean")) == ([1] if table == "resid_post.0" else [])
    assert_same(read_activations(folder), make_activations("mean"))
    shutil.copy(folder / table / "part-00000.parquet", folder / name)
    assert complete_manifest(folder, REQUEST) is None


@pytest.mark.parametrize(
    "name", ["prompts/part-00000.parquet", "tokens/part-00001.parquet", *PARTS]
)
@pytest.mark.parametrize("fault", ["truncated", "empty", "missing", "other columns"])
def test_a_damaged_part_is_reported_and_only_it_is_computed_again(folder, name, fault):
    acts = make_activations("none")
    write(folder, acts)
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if fault == "other columns":
        pq.write_table(pa.table({"x": [1]}), path)
    elif fault != "missing":
        path.write_bytes(content[:-9] if fault == "truncated" else b"")
    with pytest.raises(StoreError, match=str(path)) as raised:
        read_activations(folder)
    assert ("delete it" in raised.value.remedy) == (fault != "missing")
    path.unlink(missing_ok=True)  # as the remedy says
    missing = write(folder, acts)
    assert missing == ([int(name[-9])] if name in PARTS else [])
    assert_same(read_activations(folder), acts)


@pytest.mark.parametrize("fault", [b"", b"half"])
def test_a_truncated_part_is_computed_again_without_being_deleted(folder, fault):
    write(folder, make_activations())
    (folder / PARTS[0]).write_bytes(fault)
    assert complete_manifest(folder, REQUEST) is None
    assert write(folder, make_activations()) == [0]
    assert_same(read_activations(folder), make_activations())


def replace_entries(**entries):
    """Return a function that replaces entries of a manifest."""
    return lambda text: json.dumps({**json.loads(text), **entries})


@pytest.mark.parametrize(
    "change",
    [
        *(
            "",
            "{",
            "[]",
            "{}",
            json.dumps({"schema": SCHEMA}),
            json.dumps({"schema": SCHEMA, "key": {}}),
        ),
        *(
            replace_entries(prompts_per_part=0),
            replace_entries(tokens_per_part=0),
            replace_entries(prompts="3"),
        ),
        *(
            replace_entries(parts=[2]),
            replace_entries(parts=[4, -1]),
            replace_entries(later=[1]),
            replace_entries(other=1),
        ),
        lambda text: text.replace("mlp_act.11", "mlp.11"),
    ],
)
@pytest.mark.parametrize("name", [MANIFEST, UNFINISHED])
def test_a_damaged_manifest_is_reported_with_the_remedy(folder, change, name):
    write(folder, make_activations())
    (folder / MANIFEST).rename(folder / name)
    text = (folder / name).read_text()
    (folder / name).write_text(change if isinstance(change, str) else change(text))
    with pytest.raises(StoreError, match=str(folder / name)) as raised:
        write(folder, make_activations())
    assert "delete this file" in raised.value.remedy
    (folder / name).unlink()  # as the remedy says
    assert write(folder, make_activations()) == []
    assert_same(read_activations(folder), make_activations())


def test_a_complete_manifest_has_parts(folder):
    write(folder, make_activations())
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(replace_entries(parts=[])(text))
    with pytest.raises(StoreError, match=MANIFEST):
        read_activations(folder)


def test_an_unreadable_file_is_not_reported_as_damaged(folder, monkeypatch):
    """The remedy for a damaged file is to delete it, which must not be advised here."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    write(folder, make_activations())
    with monkeypatch.context() as patch:
        patch.setattr(pq, "read_table", refuse)
        with pytest.raises(StoreError, match=r"part-00000\.parquet.*Permission") as raised:
            read_activations(folder)
    assert "delete" not in raised.value.remedy
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(StoreError, match=r"manifest\.json.*Permission") as raised:
        read_activations(folder)
    assert "delete" not in raised.value.remedy


def test_another_schema_is_refused_and_no_file_is_changed(folder):
    write(folder, make_activations())
    document = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**document, "schema": 99}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for attempt in (lambda: read_activations(folder), lambda: write(folder, make_activations())):
        with pytest.raises(StoreError, match=rf"\b99\b.*\b{SCHEMA}\b"):
            attempt()
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
