"""Counts of an atlas: peaks, histograms, moments and extremes against NumPy; shards and kills."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from atlased import (
    AtlasSteps,
    counted_passes,
    killed_at_pass,
    merged_counts,
    topical_rows,
    write_rows,
)
from stored import Killed

from neuroscope.errors import NonfiniteError
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.extract import record
from neuroscope.extraction.models import load_model
from neuroscope.extraction.peaks import PeaksNeeded, pooled_peaks
from neuroscope.prompts import PromptSet
from neuroscope.sites import resolve_sites
from neuroscope.studies.atlas import building
from neuroscope.studies.atlas.counts import SiteCounts
from neuroscope.studies.store.division import PartLimits
from neuroscope.studies.store.store import store_activations

PROMPTS = 240
EXAMPLES = 6
PARTS = PartLimits(bytes=50 * 8 * 256, full_batches=0)
"""Parts of about fifty prompts of eight tokens."""


class Peaks:
    """Rider that keeps pooled values and peaks, in the order of the prompts."""

    def __init__(self, pool, prompts, needed=lambda batch: None):
        self.pool, self.prompts, self.needed = pool, prompts, needed
        self.values, self.peaks = {}, {}

    def reduce(self, site, batch):
        return pooled_peaks(self.pool, batch, self.needed(batch))

    def add(self, site, batch, reduced):
        for kept, tensor in zip((self.values, self.peaks), reduced, strict=True):
            array = kept.setdefault(site, np.zeros((self.prompts, tensor.shape[1])))
            array[batch.members] = tensor.numpy()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_pooled_values_and_peaks_are_those_of_the_content_tokens(
    family_folder, family, side, dtype
):
    model = load_model(str(family_folder(family)), padding_side=side, dtype=dtype)
    texts = [row["text"] for row in topical_rows(30)]
    block = tokenise(model, PromptSet.of(texts).prompts)
    sites = resolve_sites(["mlp_act", "resid_post"], "all", model.layer_count)
    riders = [Peaks(pool, len(texts)) for pool in ("mean", "max")]

    def recorded(pool):
        options = {"token_rule": "content", "budget": TokenBudget(100), "riders": riders}
        return dict(record(model, block, sites, pool=pool, **options))

    tokens, ends = recorded("none"), np.cumsum(block.kept_counts("content"))[:-1]
    for rider in riders:
        pooled = recorded(rider.pool)
        for site in sites:
            np.testing.assert_array_equal(rider.values[site], pooled[site])
            for row, own in enumerate(np.split(tokens[site], ends)):
                peaks = rider.peaks[site][row].astype(int)
                content = np.flatnonzero(block[row].content)
                assert set(peaks) <= set(content)
                at_peak = own[np.searchsorted(content, peaks), np.arange(own.shape[1])]
                np.testing.assert_array_equal(at_peak, own.max(axis=0))  # argmax, but for ties


@pytest.mark.parametrize("many", [0, 1])
@pytest.mark.parametrize("side", ["left", "right"])
def test_peaks_can_be_sought_for_some_values_only(family_folder, monkeypatch, side, many):
    monkeypatch.setattr("neuroscope.extraction.peaks._MANY", many)
    model = load_model(str(family_folder("bert")), padding_side=side)
    block = tokenise(model, PromptSet.of([row["text"] for row in topical_rows(30)]).prompts)
    sites = resolve_sites(["mlp_act"], "all", model.layer_count)
    limits = [np.full(48, value, dtype=np.float32) for value in (-0.1, 0.4)]
    chosen = np.arange(30) % 7 == 0
    every, some = (
        Peaks("mean", 30),
        Peaks("mean", 30, lambda batch: PeaksNeeded(*limits, chosen[batch.members])),
    )
    options = {"token_rule": "content", "budget": TokenBudget(100), "riders": [every, some]}
    dict(record(model, block, sites, pool=None, **options))
    for site in sites:
        values, peaks = some.values[site], some.peaks[site]
        np.testing.assert_array_equal(values, every.values[site])
        needed = (values <= limits[0]) | (values >= limits[1]) | chosen[:, None]
        np.testing.assert_array_equal(peaks[needed], every.peaks[site][needed])
        assert 0.2 < needed.mean() < 0.8 and ((peaks == -1) == ~needed).all() == bool(many)


@pytest.fixture(scope="module", params=["bert", "llama"])
def model(request, family_folder):
    return load_model(str(family_folder(request.param)))


@pytest.fixture
def prompts(tmp_path):
    """Return a file of prompts, of which some have two topics and some none."""

    def topic(row, rng):
        return [[row["topic"]], [row["topic"], "often"], []][rng.choice(3, p=[0.6, 0.3, 0.1])]

    return write_rows(tmp_path / "prompts.jsonl", topical_rows(PROMPTS, topic=topic))


@pytest.fixture
def steps(model, prompts):
    """Return a function that gives the steps of an atlas of the prompts."""

    def of(**settings):
        return AtlasSteps(model, prompts, **({"examples": EXAMPLES} | settings))

    return of


def by_rank(extremes, rows):
    """Return the values of prompts, (prompts, neurons), at the prompts of each rank."""
    return np.take_along_axis(rows, extremes.indices, axis=0)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_counts_are_those_of_extracted_activations(steps, pool):
    atlas = steps(pool=pool)
    counts = merged_counts(atlas, atlas.count())
    statistics = atlas.files.statistics(atlas.experiment, 0)
    heldout, groups = statistics.context.topics.heldout, statistics.context.groups
    assert groups.shape == (PROMPTS, 6) and groups[:, 0].all()
    acts = atlas.extract()
    for site, own in counts.items():
        values, edges = acts[site], statistics.pilot.sites[site].edges
        np.testing.assert_array_equal(own.active, [(values[rows] > 0).sum(0) for rows in groups.T])
        for half, flags in enumerate((~heldout, heldout)):
            for group, members in enumerate(groups.T):
                rows = values[members & flags].astype(np.float64)
                moments = own.moments[half]
                assert moments.count[group] == len(rows)
                np.testing.assert_allclose(moments.mean[group], rows.mean(0), rtol=1e-10)
                np.testing.assert_allclose(moments.m2[group], rows.var(0) * len(rows), rtol=1e-10)
                for neuron in (0, 7):
                    bounds = [-np.inf, *np.nextafter(edges[neuron], np.float32(np.inf)), np.inf]
                    expected, _ = np.histogram(rows[:, neuron], bounds)  # includes upper edges
                    np.testing.assert_array_equal(own.counts[half, group, neuron], expected)


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize(("examples", "sampled"), [(6, 256), (1, 3)])
def test_extremes_and_sample_are_those_of_extracted_activations(
    steps, monkeypatch, pool, examples, sampled
):
    """With few examples, peaks are sought for few values only."""
    monkeypatch.setattr(building, "_SAMPLE", sampled)
    atlas = steps(pool=pool, examples=examples)
    counts = merged_counts(atlas, atlas.count())
    acts, tokens = atlas.extract(), atlas.extract(pool="none")
    for site, own in counts.items():
        # [CLS] or <s> comes before the first content token
        peaks = np.array([rows.argmax(axis=0) + 1 for rows in tokens[site]])
        for extremes, signed in ((own.strongest, acts[site]), (own.weakest, -acts[site])):
            np.testing.assert_array_equal(extremes.values, -np.sort(-signed, axis=0)[:examples])
            np.testing.assert_array_equal(by_rank(extremes, signed), extremes.values)
            np.testing.assert_array_equal(by_rank(extremes, peaks), extremes.peaks)
        index = own.sample["index"]
        assert sorted(index) == atlas.topics.sample(sampled).tolist()
        np.testing.assert_array_equal(own.sample["values"], acts[site][index])
        np.testing.assert_array_equal(own.sample["peaks"], peaks[index])


def test_residuals_are_what_a_regression_leaves_of_the_reported_half(steps):
    atlas = steps()
    counts = merged_counts(atlas, atlas.count())
    statistics, acts = atlas.files.statistics(atlas.experiment, 0), atlas.extract()
    topics, pilot = statistics.context.topics, statistics.pilot
    everyone = np.arange(PROMPTS)
    design = pilot.design_matrix(topics, everyone, acts.tokens)
    for site, own in counts.items():
        remaining = acts[site] - design @ pilot.sites[site].coefficients
        chosen = topics.pilot(atlas.experiment.pilot)
        assert np.abs(design[chosen].T @ remaining[chosen]).max() < 1e-4  # least squares
        bins = [
            np.searchsorted(edges, column)
            for edges, column in zip(
                pilot.sites[site].residual_edges, remaining[topics.heldout].T, strict=True
            )
        ]
        expected = np.array([np.bincount(row, minlength=64) for row in bins])
        moved = np.abs(own.residual_counts[0].astype(int) - expected).sum()
        assert own.residual_counts[0].sum() == expected.sum() and moved <= 0.001 * expected.sum()


def assert_same_counts(counts, expected, *, rtol):
    for site, own in counts.items():
        single = expected[site]
        for name in ("counts", "residual_counts", "active"):
            np.testing.assert_array_equal(getattr(own, name), getattr(single, name))
        for name in ("strongest", "weakest"):
            for field, value in vars(getattr(own, name)).items():
                np.testing.assert_array_equal(value, getattr(getattr(single, name), field))
        for half in (0, 1):
            for field, value in vars(own.moments[half]).items():
                np.testing.assert_allclose(value, getattr(single.moments[half], field), rtol=rtol)
        samples = [counts.sample for counts in (own, single)]
        orders = [np.argsort(sample["index"]) for sample in samples]
        for name in samples[0]:
            one, other = (
                sample[name][order] for sample, order in zip(samples, orders, strict=True)
            )
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_merge_to_a_single_pass(steps, monkeypatch, shards):
    # values have the same last bits only if every prompt is a batch of its own
    monkeypatch.setattr("neuroscope.studies.store.plan.usual_budget", lambda device: 1)
    single, divided = steps(), steps(shards=shards)
    assert divided.files == single.files  # the number of shards does not determine the counts
    expected = merged_counts(single, single.count())
    folders = divided.count()
    assert len(set(folders)) == shards
    assert_same_counts(merged_counts(divided, folders), expected, rtol=1e-10)


def test_any_division_of_the_same_values_merges_to_the_same_counts(steps):
    atlas = steps()
    files = atlas.prepare()
    statistics, acts = files.statistics(atlas.experiment, 0), atlas.extract()
    site = atlas.spec.sites[0]
    design = statistics.pilot.design_matrix(
        statistics.context.topics, np.arange(PROMPTS), acts.tokens
    )
    peaks = np.zeros(acts[site].shape, dtype=np.int16)

    def counts_of(span):
        rows = np.arange(PROMPTS)[span]
        pilot = statistics.pilot.sites[site]
        values = acts[site][span]
        return SiteCounts.of(values, peaks[span], rows, design[span], statistics.context, pilot)

    whole = counts_of(slice(None))
    for cuts in ([1], [7, 8, 200], [3, 5, 100, 239]):
        bounds = [0, *cuts, PROMPTS]
        first, *rest = [counts_of(slice(*pair)) for pair in pairwise(bounds)]
        for part in rest:
            first = first.merge(part)
        assert_same_counts({site: first}, {site: whole}, rtol=1e-10)


def test_stored_counts_are_small_and_add_up_to_large_ones(steps):
    atlas = steps()
    counts = merged_counts(atlas, atlas.count())[atlas.spec.sites[0]]
    counts.counts = np.full_like(counts.counts, 200)
    stored = counts.to_arrays()
    assert stored["counts"].dtype == np.uint8
    total = SiteCounts.from_arrays(stored).merge(SiteCounts.from_arrays(stored)).merge(counts)
    assert (total.counts == 600).all()


def test_prompts_that_are_counted_some_at_a_time_give_the_same_counts(steps, monkeypatch):
    monkeypatch.setattr("neuroscope.studies.store.plan.usual_budget", lambda device: 100)
    results = []
    for size in (1e9, 1):
        monkeypatch.setattr("neuroscope.studies.atlas.counts._BUFFER_BYTES", size)
        monkeypatch.setattr(building, "_VERSION", size)  # counts them again
        atlas = steps()
        results.append(merged_counts(atlas, atlas.count()))
    assert_same_counts(*results, rtol=1e-10)


@pytest.mark.parametrize("budget", [20, 100_000])
def test_the_batch_budget_only_moves_values_that_lie_at_an_edge(steps, monkeypatch, budget):
    usual = merged_counts(steps(), steps().count())
    monkeypatch.setattr("neuroscope.studies.store.plan.usual_budget", lambda device: budget)
    other = steps(shards=2)
    for site, own in merged_counts(other, other.count()).items():
        expected = usual[site]
        differences = np.cumsum(own.counts.astype(int) - expected.counts, axis=-1)
        assert np.abs(differences).max() <= 1
        assert (differences != 0).mean() < 0.01 and not differences[..., -1].any()
        np.testing.assert_allclose(own.strongest.values, expected.strongest.values, atol=5e-6)
        np.testing.assert_allclose(own.moments[1].m2, expected.moments[1].m2, rtol=1e-4)


def test_finished_parts_and_shards_survive_a_kill(steps, monkeypatch, tmp_path):
    monkeypatch.setattr(building, "store_activations", partial(store_activations, limits=PARTS))
    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "undisturbed"))
    atlas = steps(shards=2)
    folders = atlas.count()
    expected = merged_counts(atlas, folders)
    parts = [len(list(folder.glob("atlas-*/part-*.npz"))) for folder in folders]
    assert min(parts) > 1

    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "killed"))
    atlas = steps(shards=2)
    atlas.prepare()
    with killed_at_pass(atlas.model, parts[0] + 1), pytest.raises(Killed):
        atlas.count()
    with counted_passes(atlas.model) as passes:
        assert_same_counts(merged_counts(atlas, atlas.count()), expected, rtol=0)
    assert len(passes) == parts[1] - 1 and sum(passes) < PROMPTS / 2


def test_a_value_that_is_not_finite_is_refused_with_its_prompt(steps):
    atlas = steps()
    atlas.prepare()
    down = atlas.model.layer(1).get_submodule(atlas.model.architecture.down)
    hook = down.register_forward_pre_hook(
        lambda module, args: args[0].masked_fill(args[0] > 0, np.nan)
    )
    with pytest.raises(NonfiniteError, match=r"mlp_act\.1.*prompt '\d+'"):
        atlas.count()
    hook.remove()
    assert len(merged_counts(atlas, atlas.count())) == 2
