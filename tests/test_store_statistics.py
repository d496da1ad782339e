"""Statistics that are computed during an extraction and stored with the values."""

import numpy as np
import pytest
from extractions import (
    CLOSE,
    SITES,
    SMALL_PARTS,
    Norms,
    joined_statistics,
    random_prompts,
    spec_of,
    store,
)
from stored import assert_same

from neuroscope.errors import StoreError
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.storage.activation_store import read_activations, read_parts
from neuroscope.studies.store.store import store_activations


@pytest.fixture(scope="module")
def model(family_folder):
    return load_model(str(family_folder("bert")))


def expected_norms(model, prompts):
    """Return by site the sums of norms of content tokens, (prompts,), from the tokens."""
    tokens = extract(model, prompts, SITES, pool="none")
    return {
        str(site): np.array([np.linalg.norm(rows, axis=1).sum() for rows in tokens[site]])
        for site in tokens
    }


def assert_norms(stored, model, prompts, name="norms-1"):
    for site, expected in expected_norms(model, prompts).items():
        np.testing.assert_allclose(
            joined_statistics(stored.folder, name, site), expected, rtol=1e-5
        )


def modification_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/part-*")}


def count_passes(model, passes):
    return model.module.register_forward_pre_hook(lambda *_: passes.append(1))


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("memory", ["resident", "stream"])
@pytest.mark.parametrize("pool", ["mean", "none"])
def test_statistics_cover_every_token(family_folder, folder, values, memory, pool):
    model, prompts = load_model(str(family_folder("bert")), memory=memory), random_prompts(30)
    spec = {"pool": pool}
    stored = store(folder, model, prompts, statistics=[Norms()], values=values, spec=spec)
    assert_norms(stored, load_model(str(family_folder("bert"))), prompts)
    tokens = sum(int(arrays["tokens"]) for arrays in stored.statistics("norms-1"))
    content = int(read_activations(folder, []).tokens.kept_counts("content").sum())
    assert tokens == content * len(stored.manifest.sites)
    assert stored.size == sum(path.stat().st_size for path in folder.glob("*/part-*"))
    if values:
        in_memory = extract(model, prompts, SITES, pool=pool)
        assert_same(read_activations(folder), in_memory, provenance=False, atol=CLOSE)
    else:
        assert {path.parent.name for path in modification_times(folder)} == {
            "prompts",
            "tokens",
            "norms-1",
        }


def test_each_part_has_its_position_among_all_prompts(model, folder):
    statistics = Norms()
    stored = store(folder, model, random_prompts(40), statistics=[statistics])
    sizes = stored.manifest.parts
    assert len(sizes) > 3
    assert statistics.parts == list(zip(stored.manifest.starts, sizes, strict=True))


def test_a_second_call_computes_nothing_and_new_statistics_rewrite_nothing(model, folder):
    prompts, passes = random_prompts(40), []
    store(folder, model, prompts)
    before = modification_times(folder)
    stored = store(folder, model, prompts, statistics=[Norms("norms-1")])
    assert (stored.computed, stored.manifest.statistics) == (40, ("norms-1",))
    hook = count_passes(model, passes)
    again = store(folder, model, prompts, statistics=[Norms("norms-1")])
    assert (again.computed, passes) == (0, [])
    hook.remove()
    both = store(folder, model, prompts, statistics=[Norms("norms-2"), Norms("norms-1")])
    assert both.manifest.statistics == ("norms-1", "norms-2")
    assert before.items() <= modification_times(folder).items()
    for name in ("norms-1", "norms-2"):
        assert_norms(both, model, prompts, name)
    assert store(folder, model, prompts).computed == 0


def test_passes_run_over_the_parts_that_any_sink_lacks(model, folder):
    """Each sink receives only the parts that it lacks."""
    prompts = random_prompts(40)
    stored = store(folder, model, prompts, statistics=[Norms()])
    sizes = stored.manifest.parts
    (folder / "norms-1" / "part-00001.npz").unlink()
    (folder / "mlp_act.0" / "part-00002.parquet").unlink()
    before = modification_times(folder)
    statistics = Norms()
    again = store(folder, model, prompts, statistics=[statistics])
    assert again.computed == sizes[1] + sizes[2]
    assert statistics.parts == [(sizes[0], sizes[1])]
    after = modification_times(folder)
    changed = {path for path in before if after[path] != before[path]}
    assert {path.stem for path in changed} == {"part-00002"}
    assert_norms(again, model, prompts)


def test_statistics_do_not_change_the_values(model, tmp_path):
    prompts = random_prompts(40)
    store(tmp_path / "with", model, prompts, statistics=[Norms()])
    store(tmp_path / "without", model, prompts)
    first, second = (read_activations(tmp_path / name) for name in ("with", "without"))
    for site in first:
        np.testing.assert_array_equal(first[site], second[site])


def test_values_requested_later_are_added_to_statistics(model, folder):
    prompts, spec = random_prompts(30), {"pool": "none"}
    alone = store(folder, model, prompts, statistics=[Norms()], values=False, spec=spec)
    with pytest.raises(StoreError, match=str(folder)):
        next(read_parts(folder, "mlp_act"))
    stored = store(folder, model, prompts, spec=spec)
    assert stored.computed == 30
    in_memory = extract(model, prompts, SITES, pool="none")
    assert_same(read_activations(folder), in_memory, provenance=False, atol=CLOSE)
    # parts of statistics alone hold more prompts than memory would hold values of
    assert len(alone.manifest.parts) < len(stored.manifest.parts)
    again = store(folder, model, prompts, statistics=[Norms()], values=False, spec=spec)
    assert (again.computed, again.manifest.statistics) == (30, ("norms-1",))
    assert again.manifest.values


def test_a_request_for_nothing_or_a_repeated_name_is_refused(model, folder):
    spec = spec_of(model, random_prompts(3))
    for options in ({"values": False}, {"statistics": [Norms(), Norms()]}):
        with pytest.raises(ValueError, match="statistics"):
            store_activations(spec, folder, lambda: model, limits=SMALL_PARTS, **options)
    with pytest.raises(ValueError, match=r"mlp_act\.0"):
        store(folder, model, random_prompts(3), statistics=[Norms("mlp_act.0")])
    assert not folder.exists()
