"""What readers see first of an atlas: the best neurons of topics, and cards without some values."""

import numpy as np
import pytest
from atlases import LAYERS, TOPICS, UNITS, atlas_tables, write_small_atlas

from neuroscope.reporting.tables import NO_VALUE
from neuroscope.storage.atlas_file import Atlas
from neuroscope.studies.atlas.cards import card_document, card_of
from neuroscope.studies.atlas.summary import atlas_result, summary_table
from neuroscope.studies.atlas.tables import neurons_table


def consistent(seed):
    """Return tables whose polarity and directions follow from the half that selects, as built."""
    tables = atlas_tables(seed)
    entries = tables["selectivity"]
    entries = entries.assign(polarity=np.where(entries["auroc"] < 0.5, -1, 1))
    reached = (entries["auroc"] - 0.5).abs()
    directions = tables["direction"]
    for index, row in directions.iterrows():
        own = (entries["topic"] == row["topic"]) & (entries["neuron"] // UNITS == row["layer"])
        best = entries.loc[reached[own].idxmax()]
        area = best["auroc_heldout"]
        directions.loc[index, "best_neuron"] = best["neuron"]
        directions.loc[index, "best_auroc"] = 1 - area if best["polarity"] < 0 else area
    return tables | {"selectivity": entries, "direction": directions}, reached


@pytest.mark.parametrize("seed", range(3))
def test_the_best_neuron_of_a_topic_is_the_best_of_its_layers_in_the_selection_half(tmp_path, seed):
    path = tmp_path / "atlas.duckdb"
    tables, reached = consistent(seed)
    write_small_atlas(path, **tables)
    result = atlas_result(path, "tiny")
    entries = tables["selectivity"]
    for number, topic in enumerate(result.topics):
        best = entries.loc[reached[entries["topic"] == number].idxmax()]
        layer, unit = divmod(int(best["neuron"]), UNITS)
        assert topic.best_neuron == f"mlp_act.{layer}.{unit}"
        (row,) = (row for row in result.rows if (row.layer, row.topic) == (layer, topic.topic))
        assert row.best_neuron == topic.best_neuron
        assert row.best_auroc == pytest.approx(topic.best_auroc)
        assert topic.silent == (best["polarity"] < 0)
        assert topic.best_ap == pytest.approx(best["ap_heldout"])


def test_a_best_neuron_that_is_silent_is_marked(tmp_path):
    tables, _ = consistent(0)
    write_small_atlas(tmp_path / "atlas.duckdb", **tables)
    result = atlas_result(tmp_path / "atlas.duckdb", "tiny")
    table = summary_table(result)
    (section,) = table.sections
    marked = {row[6] for row in section.rows if "silent" in str(row[6])}
    assert marked == {f"{row.best_neuron} (silent)" for row in result.topics if row.silent}
    assert len(marked) > 0 and "1 - AUROC" in table.notes[-1]


def test_the_first_of_equally_good_neurons_is_the_best(tmp_path):
    tables, _ = consistent(0)
    entries = tables["selectivity"].assign(auroc=0.5, polarity=1)
    directions = tables["direction"]
    directions = directions.assign(best_neuron=directions["layer"] * UNITS)
    write_small_atlas(tmp_path / "atlas.duckdb", selectivity=entries, direction=directions)
    result = atlas_result(tmp_path / "atlas.duckdb", "tiny")
    assert [topic.best_neuron for topic in result.topics] == ["mlp_act.0.0"] * len(TOPICS)
    assert len(result.rows) == LAYERS * len(TOPICS)


@pytest.fixture
def incomplete(tmp_path):
    """Return an atlas whose values are missing where they may be."""
    tables = atlas_tables()
    constants = {"mean": 0.25, "sd": 0.0, "low": 0.25, "high": 0.25, "active": 1.0}
    missing = ["q001", "q01", "q50", "q99", "q999", "eta_squared", "entropy"]
    neurons = tables["neuron"].assign(**constants, **dict.fromkeys(missing, np.nan))
    neurons["edges"] = [[0.25] * 65] * len(neurons)
    undefined = ["one_vs_one", "d", "r", "p", "q", "partial_auroc", "ap_error"]
    entries = tables["selectivity"].assign(**dict.fromkeys(undefined, np.nan), rival=None)
    covariates = tables["covariate"].assign(auroc=np.nan)
    path = tmp_path / "atlas.duckdb"
    write_small_atlas(path, neuron=neurons, selectivity=entries, covariate=covariates)
    with Atlas.open(path) as opened:
        yield opened


def cells_of(table):
    """Return the texts of each row of a table by the headings of its columns."""
    names = [column.heading for column in table.columns]
    return [
        dict(zip(names, table.texts(row), strict=True))
        for section in table.sections
        for row in section.rows
    ]


def test_the_card_of_a_dead_neuron_leaves_out_what_is_not_defined(incomplete):
    found = incomplete.neuron("mlp_act.1.3")
    card = card_of(found, topics=incomplete.topics())
    assert card.summary == "Mean 0.25, sd 0, from 0.25 to 0.25; positive at 100% of the prompts."
    assert card.histogram.startswith("0.25 ") and card.histogram.endswith(" 0.25")
    for cells in cells_of(card.topics):
        names = ("one vs one", "rival", "partial", "d", "q", "covariate")
        assert {cells[name] for name in names} == {NO_VALUE}
        assert cells["AUROC"] != NO_VALUE
    document = card_document(found, incomplete.topics())
    assert document["eta_squared"] is None and document["topics"][0]["rival"] is None
    assert document["topics"][0]["covariate_auroc"] is None


def test_a_table_of_neurons_has_empty_cells(incomplete):
    rows = cells_of(neurons_table(incomplete.neurons(top=3)))
    assert len(rows) == 3
    for cells in rows:
        assert (cells["one vs one"], cells["rival"], cells["partial"]) == (NO_VALUE,) * 3


def test_a_card_has_the_share_of_the_variance_if_it_is_known(tmp_path):
    tables = atlas_tables()
    neurons = tables["neuron"].assign(eta_squared=0.5, mean=1, sd=2, low=-1, high=3, active=0.25)
    write_small_atlas(tmp_path / "atlas.duckdb", neuron=neurons)
    with Atlas.open(tmp_path / "atlas.duckdb") as opened:
        card = card_of(opened.neuron("mlp_act.0.0"))
    assert card.summary == (
        "Mean 1, sd 2, from -1 to 3; positive at 25% of the prompts;"
        " the topics account for 50% of its variance."
    )
