"""Only atlases of the same layers are compared."""

import pytest
from atlases import UNITS, atlas_tables, write_small_atlas

from neuroscope.errors import ExperimentError
from neuroscope.storage.atlas_file import Atlas
from neuroscope.studies.atlas.changes import atlas_changes


@pytest.fixture
def of_layers(tmp_path):
    """Return a function that opens an atlas of some layers of one model."""
    opened = []

    def open_atlas(*layers):
        tables = atlas_tables()
        kept = {
            name: table[(table["neuron"] // UNITS).isin(layers)]
            for name, table in tables.items()
            if name in ("neuron", "selectivity", "example")
        }
        path = tmp_path / f"{len(opened)}.duckdb"
        write_small_atlas(path, **kept)
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


def test_the_same_layers_are_compared(of_layers):
    changes = atlas_changes(of_layers(1, 2), of_layers(2, 1))
    assert set(changes.neurons["state"]) == {"kept"}
    assert set(changes.neurons["neuron"].str.split(".").str[1]) == {"1", "2"}
