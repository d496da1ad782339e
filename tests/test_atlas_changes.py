"""Atlases of the same layers are compared; what else differs is noted."""

import pytest
from atlases import UNITS, atlas_tables, write_small_atlas

from neuroscope.errors import ExperimentError
from neuroscope.storage.atlas_file import Atlas
from neuroscope.studies.atlas.changes import atlas_changes
from neuroscope.studies.atlas.tables import changes_tables


@pytest.fixture
def of_layers(tmp_path):
    """Return a function that opens an atlas of some layers, with some tables replaced."""
    opened = []

    def open_atlas(*layers, **changes):
        tables = atlas_tables() | changes
        kept = {
            name: table[(table["neuron"] // UNITS).isin(layers)]
            for name, table in tables.items()
            if name in ("neuron", "selectivity", "example")
        }
        path = tmp_path / f"{len(opened)}.duckdb"
        write_small_atlas(path, **changes | kept)
        opened.append(Atlas.open(path))
        return opened[-1]

    yield open_atlas
    for atlas in opened:
        atlas.close()


@pytest.mark.parametrize(
    ("old", "new", "described"),
    [
        ([0], [1], "layer 0 and layer 1"),
        ([0, 1], [1, 2], "layers 0-1 and layers 1-2"),
        ([0, 2], [0, 1, 2], "layers 0, 2 and layers 0-2"),
    ],
)
def test_other_layers_are_refused(of_layers, old, new, described):
    with pytest.raises(ExperimentError, match=rf"{described}; .*same layers"):
        atlas_changes(of_layers(*old), of_layers(*new))


def test_equal_atlases_have_no_neurons_that_changed(of_layers):
    changes = atlas_changes(of_layers(1, 2), of_layers(2, 1))
    assert changes.topics["kept"].sum() > 0
    assert changes.topics["kept"].tolist() == changes.topics["old"].tolist()
    assert changes.neurons.empty and changes.notes == ()


def test_an_entry_that_is_kept_and_changed_is_listed(of_layers):
    entries = atlas_tables()["selectivity"]
    kept = entries["selective"] & ~entries["confounded"]
    first = entries.index == entries.index[kept][0]
    moved = entries.assign(auroc_heldout=entries["auroc_heldout"] - 0.25 * first)
    changes = atlas_changes(of_layers(0, 1, 2), of_layers(0, 1, 2, selectivity=moved))
    assert changes.neurons["state"].tolist() == ["kept"]
    assert changes.neurons["change"].tolist() == pytest.approx([-0.25], abs=1e-6)


def test_what_the_atlases_do_not_share_is_noted(of_layers):
    tables = atlas_tables()
    names = tables["topic"]["name"].tolist()
    topics = tables["topic"].assign(name=["renamed", *names[1:]])
    model = tables["model"].assign(prompts_digest="other", pool="max", min_auroc=0.8)
    changes = atlas_changes(of_layers(1), of_layers(1, topic=topics, model=model))
    assert changes.notes == (
        "the prompts differ, so changes need not be changes of the model",
        f"only the old atlas has the topic {names[0]!r}",
        "only the new atlas has the topic 'renamed'",
        "pool differs: x and max",
        "min_auroc differs: 0.75 and 0.8",
    )
    by_topic, _ = changes_tables(changes, 5)
    assert by_topic.notes[0] == f"Note: {changes.notes[0]}."
