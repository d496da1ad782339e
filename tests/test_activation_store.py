"""Activations on disk: what is written is read, and found by its key."""

import json
import shutil
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
    complete,
    key,
    make,
    write,
)

from neuroscope.activations import check_pooling
from neuroscope.errors import NeuroscopeError, SiteError, StoreError
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations, store_folder
from neuroscope.storage.disk import stored_bytes
from neuroscope.storage.manifest import MANIFEST, read_manifest
from neuroscope.storage.unfinished import (
    complete_manifest,
)


@pytest.mark.parametrize("per_part", [1, 2, 3, 100])
def test_pooled_activations_read_back_exactly(folder, per_part):
    acts = make("mean")
    write(folder, acts, per_part)
    read = read_activations(folder)
    assert_same(read, acts)
    assert read["resid_post.0"].shape == (3, 8)
    assert read.prompts.prompts[0].labels == {"topic": "animals", "language": "en"}


@pytest.mark.parametrize("rule", ["content", "all"])
@pytest.mark.parametrize("per_part", [1, 2])
def test_token_level_activations_read_back_exactly(folder, rule, per_part):
    acts = make("none", rule)
    write(folder, acts, per_part)
    read = read_activations(folder)
    assert_same(read, acts)
    counts = [2, 4, 1] if rule == "content" else [4, 6, 3]
    assert [values.shape for values in read[MLP]] == [(count, 5) for count in counts]


def test_values_that_float32_can_hold_survive_to_the_last_bit(folder):
    extreme = np.array([[0.0, -0.0, 1e-45, 3.4e38, -1e-38, 1 / 3, 2**24 + 2, np.nan]] * 3, "f4")
    write(folder, replace(make(), arrays={RESID: extreme, MLP: extreme}))
    assert read_activations(folder)[RESID].tobytes() == extreme.tobytes()


def test_an_array_that_is_not_contiguous_is_written_in_its_order(folder):
    acts = make()
    turned = np.asfortranarray(acts[RESID])[:, ::2]
    write(folder, replace(acts, arrays={RESID: turned, MLP: acts[MLP]}))
    np.testing.assert_array_equal(read_activations(folder)[RESID], turned)


def test_only_the_sites_asked_for_are_read(folder):
    write(folder, make())
    shutil.rmtree(folder / "resid_post.0")
    assert read_activations(folder, [MLP]).sites == (MLP,)
    for names in ("mlp_act", ["mlp_act.11"], ["blocks.11.mlp.hook_post"], [MLP, "mlp_act"]):
        assert read_activations(str(folder), names).sites == (MLP,)
    assert read_activations(folder, []).tokens == make().tokens


def test_pandas_reads_pooled_parts(folder):
    acts = make()
    write(folder, acts)
    table = pd.read_parquet(folder / "resid_post.0")
    assert list(table.columns) == ["prompt", "values"]
    assert table["prompt"].tolist() == ["z", "10", "9"]
    np.testing.assert_array_equal(np.stack(table["values"]), acts[RESID])


def test_pandas_reads_token_level_parts_with_their_positions(folder):
    acts = make("none")
    write(folder, acts)
    table = pd.read_parquet(folder / "mlp_act.11")
    assert list(table.columns) == ["prompt", "position", "values"]
    assert table["prompt"].tolist() == ["z"] * 2 + ["10"] * 4 + ["9"]
    assert table["position"].tolist() == [1, 2, 1, 2, 3, 4, 1]
    np.testing.assert_array_equal(np.stack(table["values"]), np.concatenate(acts[MLP]))
    words = pd.read_parquet(folder / "tokens").query("not special")
    assert words["text"].tolist() == ["the", "cat", "Ün", "##ï", "猫", "[UNK]", "x"]
    assert words["unknown"].tolist() == [False] * 5 + [True, False]


def test_a_folder_holds_what_it_says_and_no_scaffolding(folder):
    write(folder, make("none"))
    names = {path.name for path in folder.iterdir()}
    assert names == {MANIFEST, "prompts", "tokens", "resid_post.0", "mlp_act.11"}
    document = json.loads((folder / MANIFEST).read_text())
    assert (document["schema"], document["prompts"]) == (5, 3)
    assert document["digest"] == key("none").digest
    assert document["key"]["sites"] == ["resid_post.0", "mlp_act.11"]
    assert read_manifest(folder) == complete("none")
    assert stored_bytes(folder) == sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def test_what_is_complete_is_found_by_its_key(folder):
    assert complete_manifest(folder, key()) is None
    write(folder, make())
    assert complete_manifest(folder, key()) == complete()
    assert write(folder, make()) == []


@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.parametrize("change", ["fewer rows", "another's rows"])
def test_a_part_with_other_rows_is_damaged(folder, pool, change):
    write(folder, make(pool))
    path = folder / PARTS[0]
    table = pq.read_table(path)
    if change == "fewer rows":
        table = table.slice(0, len(table) - 1)
    else:
        table = table.set_column(0, "prompt", pa.array(["9"] * len(table)))
    pq.write_table(table, path)
    with pytest.raises(StoreError, match="is damaged"):
        read_activations(folder)


def test_a_value_that_changed_on_the_disk_is_noticed(folder):
    write(folder, make())
    path = folder / PARTS[0]
    content = path.read_bytes()
    at = content.index(make()[RESID][1].tobytes())
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(StoreError, match="is damaged"):
        read_activations(folder)


def test_long_columns_are_divided_into_groups_that_readers_can_count(folder, monkeypatch):
    monkeypatch.setattr("neuroscope.storage.parts._VALUES_A_GROUP", 10)
    write(folder, make())
    groups = [pq.read_metadata(folder / part).num_row_groups for part in PARTS]
    assert groups == [2, 1]  # two rows of 8 values, one of 5
    assert_same(read_activations(folder), make())


def test_a_site_that_is_lacking_is_named(folder):
    write(folder, make())
    with pytest.raises(StoreError, match=r"not hold mlp_out\.3; it holds resid_post\.0, mlp"):
        read_activations(folder, [RESID, Site("mlp_out", 3)])
    with pytest.raises(SiteError, match="unknown site 'mlp_ac'"):
        read_activations(folder, "mlp_ac")


@pytest.mark.parametrize(
    ("name", "other"),
    {
        "fingerprint": "b" * 64,
        "prompts_digest": "c" * 64,
        "sites": (RESID,),
        "pool": "max",
        "token_rule": "all",
        "truncated": True,
        "dtype": "bfloat16",
        "attention": "eager",
    }.items(),
)
def test_the_key_differs_with_everything_that_decides_the_values(name, other):
    assert key().digest != replace(key(), **{name: other}).digest


def test_the_key_is_the_same_in_every_process_and_on_every_machine(home):
    assert key().digest == "48ca844ca4a305fb32b491e27a084f77"
    assert store_folder(key()) == home / "activations" / key().digest


def test_activations_are_found_by_site_by_name_and_by_alias():
    acts = make()
    for name in (MLP, "mlp_act.11", "blocks.11.mlp.hook_post"):
        np.testing.assert_array_equal(acts[name], acts.arrays[MLP])
    with pytest.raises(
        SiteError, match=r"resid_post\.1 was not recorded; recorded are resid_post\.0"
    ):
        acts["resid_post.1"]


def test_unknown_pools_and_token_rules_are_refused_and_the_known_ones_named():
    check_pooling("mean", "all")
    with pytest.raises(
        NeuroscopeError, match=r"unknown pool 'sum': .* mean, max, last, first, none"
    ):
        check_pooling("sum", "all")
    with pytest.raises(NeuroscopeError, match=r"unknown token rule 'words': .* content, all"):
        check_pooling("mean", "words")
