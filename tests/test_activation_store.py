"""Activations on disk are read back as written, in one call or part by part."""

import json
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored import (
    MLP,
    PARTS,
    RESID,
    assert_same,
    key,
    make_activations,
    manifest_with_values,
    visible_names,
    write,
)

from neuroscope.activations import Activations
from neuroscope.errors import NeuroscopeError, SiteError, StoreError
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations, read_parts, store_folder
from neuroscope.storage.disk import stored_bytes
from neuroscope.storage.keys import ActivationKey, Composition
from neuroscope.storage.manifest import MANIFEST, read_manifest
from neuroscope.storage.parts import Part, write_part
from neuroscope.storage.writing import Request, complete_manifest


@pytest.mark.parametrize("per_part", [1, 2, 3, 100])
def test_pooled_activations_read_back_exactly(folder, per_part):
    acts = make_activations("mean")
    write(folder, acts, per_part)
    read = read_activations(folder)
    assert_same(read, acts)
    assert read["resid_post.0"].shape == (3, 8)
    assert read["resid_post.0"].flags.writeable
    assert read.prompts.prompts[0].labels == {"topic": "animals", "language": "en"}


@pytest.mark.parametrize("rule", ["content", "all"])
@pytest.mark.parametrize("per_part", [1, 2])
def test_token_level_activations_read_back_exactly(folder, rule, per_part):
    acts = make_activations("none", rule)
    write(folder, acts, per_part)
    read = read_activations(folder)
    assert_same(read, acts)
    counts = [2, 4, 1] if rule == "content" else [4, 6, 3]
    assert [values.shape for values in read[MLP]] == [(count, 5) for count in counts]


@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.parametrize("per_part", [1, 2, 3])
def test_parts_are_read_one_by_one(folder, pool, per_part):
    acts = make_activations(pool)
    write(folder, acts, per_part)
    parts = list(read_parts(folder))
    assert [len(part.prompts) for part in parts] == list(read_manifest(folder).parts)
    first = 0
    for part in parts:
        span = slice(first, first + len(part.prompts))
        arrays = {site: acts[site][span] for site in acts}
        prompts = PromptSet(acts.prompts.prompts[span])
        tokens = acts.tokens.slice(span)
        assert_same(part, Activations(prompts, tokens, arrays, acts.provenance))
        first = span.stop


def test_read_parts_reads_only_the_chosen_sites_and_checks_them_first(folder):
    write(folder, make_activations())
    shutil.rmtree(folder / "resid_post.0")
    assert [part.sites for part in read_parts(str(folder), "mlp_act")] == [(MLP,), (MLP,)]
    with pytest.raises(StoreError, match=r"mlp_out\.3"):
        read_parts(folder, ["mlp_out.3"])
    parts = read_parts(folder, [MLP])
    next(parts)
    (folder / PARTS[1]).unlink()
    with pytest.raises(StoreError, match=PARTS[1]):
        next(parts)


def test_read_parts_holds_one_part_in_memory(folder):
    wide = {site: np.ones((3, 200_000), "f4") for site in (RESID, MLP)}
    write(folder, replace(make_activations(), arrays=wide), per_part=1)

    def peak_bytes(read):
        tracemalloc.start()
        read()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    part_bytes = 2 * 200_000 * 4
    assert peak_bytes(lambda: read_activations(folder)) > 3 * part_bytes
    assert peak_bytes(lambda: [part.sites for part in read_parts(folder)]) < 2.5 * part_bytes


def test_extreme_float32_values_are_stored_exactly(folder):
    extreme = np.array([[0.0, -0.0, 1e-45, 3.4e38, -1e-38, 1 / 3, 2**24 + 2, np.nan]] * 3, "f4")
    write(folder, replace(make_activations(), arrays={RESID: extreme, MLP: extreme}))
    assert read_activations(folder)[RESID].tobytes() == extreme.tobytes()


def test_a_non_contiguous_array_is_written_in_logical_order(folder):
    acts = make_activations()
    strided = np.asfortranarray(acts[RESID])[:, ::2]
    write(folder, replace(acts, arrays={RESID: strided, MLP: acts[MLP]}))
    np.testing.assert_array_equal(read_activations(folder)[RESID], strided)


def test_only_the_chosen_sites_are_read(folder):
    write(folder, make_activations())
    shutil.rmtree(folder / "resid_post.0")
    assert read_activations(folder, [MLP]).sites == (MLP,)
    for names in ("mlp_act", ["mlp_act.11"], ["blocks.11.mlp.hook_post"], [MLP, "mlp_act"]):
        assert read_activations(str(folder), names).sites == (MLP,)
    assert read_activations(folder, []).tokens == make_activations().tokens


def test_pandas_reads_pooled_parts(folder):
    acts = make_activations()
    write(folder, acts)
    table = pd.read_parquet(folder / "resid_post.0")
    assert list(table.columns) == ["prompt", "values"]
    assert table["prompt"].tolist() == ["z", "10", "9"]
    np.testing.assert_array_equal(np.stack(table["values"]), acts[RESID])


def test_pandas_reads_token_level_parts_with_their_positions(folder):
    acts = make_activations("none")
    write(folder, acts)
    table = pd.read_parquet(folder / "mlp_act.11")
    assert list(table.columns) == ["prompt", "position", "values"]
    assert table["prompt"].tolist() == ["z"] * 2 + ["10"] * 4 + ["9"]
    assert table["position"].tolist() == [1, 2, 1, 2, 3, 4, 1]
    np.testing.assert_array_equal(np.stack(table["values"]), np.concatenate(acts[MLP]))
    words = pd.read_parquet(folder / "tokens").query("not special")
    assert words["text"].tolist() == ["the", "cat", "Ün", "##ï", "猫", "[UNK]", "x"]
    assert words["unknown"].tolist() == [False] * 5 + [True, False]


def test_a_folder_holds_only_what_its_manifest_declares(folder):
    write(folder, make_activations("none"))
    names = {path.name for path in folder.iterdir()}
    assert names == {MANIFEST, "prompts", "tokens", "resid_post.0", "mlp_act.11"}
    assert visible_names(folder.parent) == {folder.name}
    document = json.loads((folder / MANIFEST).read_text())
    assert (document["schema"], document["prompts"], document["values"]) == (7, 3, True)
    assert document["digest"] == key("none").digest
    assert document["key"]["sites"] == ["resid_post.0", "mlp_act.11"]
    assert "composition" not in document["key"]
    assert read_manifest(folder) == manifest_with_values("none")
    assert stored_bytes(folder) == sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def test_complete_activations_are_found_by_their_key(folder):
    request = Request(key())
    assert complete_manifest(folder, request) is None
    write(folder, make_activations())
    assert complete_manifest(folder, request) == manifest_with_values()
    assert complete_manifest(folder, Request(key("max"))) is None
    assert complete_manifest(folder, replace(request, statistics=("lengths-1",))) is None
    assert write(folder, make_activations()) == []


@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.parametrize("change", ["fewer rows", "wrong prompts"])
def test_a_part_with_wrong_rows_is_refused(folder, pool, change):
    write(folder, make_activations(pool))
    path = folder / PARTS[0]
    table = pq.read_table(path)
    if change == "fewer rows":
        table = table.slice(0, len(table) - 1)
    else:
        table = table.set_column(0, "prompt", pa.array(["9"] * len(table)))
    pq.write_table(table, path)
    with pytest.raises(StoreError, match=PARTS[0]):
        read_activations(folder)


def test_a_changed_byte_on_disk_is_detected(folder):
    write(folder, make_activations())
    path = folder / PARTS[0]
    content = path.read_bytes()
    offset = content.index(make_activations()[RESID][1].tobytes())
    path.write_bytes(content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :])
    for read in (read_activations, lambda folder: list(read_parts(folder))):
        with pytest.raises(StoreError, match=PARTS[0]):
            read(folder)


def test_long_columns_are_divided_into_row_groups(folder):
    folder.mkdir()
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(24, dtype="f4")), 8)
    part = Part("k", "resid_post.0", 0, 0, 3)
    write_part(folder, part, {"prompt": ["a", "b", "c"], "values": values}, values_per_group=20)
    metadata = pq.read_metadata(part.path(folder))
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [
        2,
        1,
    ]


def test_a_missing_site_is_reported(folder):
    write(folder, make_activations())
    with pytest.raises(StoreError, match=r"mlp_out\.3.*resid_post\.0, mlp_act\.11"):
        read_activations(folder, [RESID, Site("mlp_out", 3)])
    with pytest.raises(SiteError, match="'mlp_ac'"):
        read_activations(folder, "mlp_ac")


@pytest.mark.parametrize(
    ("field", "value"),
    {
        "fingerprint": "b" * 64,
        "prompts_digest": "c" * 64,
        "sites": (RESID,),
        "pool": "max",
        "token_rule": "all",
        "truncated": True,
        "dtype": "bfloat16",
        "attention": "eager",
        "composition": Composition(2048),
    }.items(),
)
def test_the_key_depends_on_everything_that_determines_the_values(field, value):
    assert key().digest != replace(key(), **{field: value}).digest


def test_the_key_depends_on_every_field_of_a_composition():
    compositions = [
        Composition(2048),
        Composition(1024),
        Composition(2048, shuffle=0),
        Composition(2048, shuffle=1),
        Composition(2048, padding_side="left"),
    ]
    keys = [replace(key(), composition=composition) for composition in compositions]
    assert len({composed.digest for composed in keys}) == len(keys)
    for composed in keys:
        assert ActivationKey.from_dict(json.loads(json.dumps(composed.to_dict()))) == composed
    with pytest.raises(NeuroscopeError, match="'middle'"):
        Composition(2048, padding_side="middle")


def test_the_key_is_the_same_in_every_process_and_on_every_machine(home):
    assert key().digest == "33c103b525cca7c066d71fa1e74c81cb"
    assert store_folder(key()) == home / "activations" / key().digest
    assert not home.exists()


def test_activations_are_indexed_by_site_name_or_alias():
    acts = make_activations()
    for name in (MLP, "mlp_act.11", "blocks.11.mlp.hook_post"):
        np.testing.assert_array_equal(acts[name], acts.arrays[MLP])
    with pytest.raises(SiteError, match=r"resid_post\.1 .*resid_post\.0"):
        acts["resid_post.1"]
