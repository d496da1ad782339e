"""An atlas returns what was written into it, to several readers, and only reads."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import duckdb
import numpy as np
import pandas as pd
import pytest
from atlases import (
    HOSTILE,
    LAYERS,
    NEURONS,
    TOPICS,
    UNITS,
    WORDS,
    assert_same,
    atlas_tables,
    plain,
    records,
    write_small_atlas,
)

from neuroscope.errors import ExperimentError, SiteError
from neuroscope.storage.atlas_file import Atlas
from neuroscope.storage.atlas_schema import COVARIATES, MEANINGS, ORDER, TABLES


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("atlas") / "it's an atlas.duckdb"
    return path, write_small_atlas(path)


@pytest.fixture(scope="module")
def tables(written):
    return written[1]


@pytest.fixture
def atlas(written):
    with Atlas.open(written[0]) as atlas:
        yield atlas


def entries(tables):
    """Return all entries with the names of neuron, topic and rival, strongest first."""
    names = tables["topic"].set_index("topic")["name"]
    neurons = tables["neuron"].set_index("neuron")
    frame = tables["selectivity"]
    distance = (frame["auroc_heldout"] - np.float32(0.5)).abs()
    frame = frame.assign(
        topic=frame["topic"].map(names),
        rival=frame["rival"].map(names),
        layer=frame["neuron"].map(neurons["layer"]),
        unit=frame["neuron"].map(neurons["unit"]),
        neuron=frame["neuron"].map(neurons["name"]),
        distance=distance,
    )
    return frame.sort_values("distance", ascending=False, kind="stable").drop(columns="distance")


def assert_rows(frame, expected):
    """Check that a frame has the expected rows, in their order."""
    assert set(frame) <= set(expected)
    assert records(frame) == records(expected[list(frame)])


def test_every_table_reads_back_as_written(atlas, tables):
    assert_same(atlas, tables)


def test_the_schema_is_complete_and_stored_in_the_file(atlas):
    assert list(MEANINGS) == list(ORDER) == list(TABLES)
    stored = atlas.sql(
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns()"
        " WHERE database_name = 'atlas' AND comment IS NOT NULL"
    )
    kinds = {"REAL": "FLOAT", "REAL[]": "FLOAT[]"}
    assert set(stored.itertuples(index=False, name=None)) == {
        (
            table,
            column.name,
            kinds.get(column.type, column.type.replace("REAL", "FLOAT")),
            column.meaning,
        )
        for table, columns in TABLES.items()
        for column in columns
    }


def test_the_model_is_a_dictionary(atlas, tables):
    expected = tables["model"].to_dict("records")[0]
    assert atlas.model() == expected


def test_topics_have_the_auroc_of_each_covariate(atlas, tables):
    frame = atlas.topics()
    covariates = tables["covariate"].pivot(index="topic", columns="name", values="auroc")
    assert list(frame)[-len(COVARIATES) :] == list(COVARIATES)
    assert frame["name"].tolist() == TOPICS
    for name in COVARIATES:
        np.testing.assert_array_equal(frame[name], covariates[name])
    for name in ("selective", "confounded", "share", "separable", "reason"):
        assert frame[name].tolist() == tables["topic"][name].tolist()


@pytest.mark.parametrize("topic", [None, *TOPICS])
@pytest.mark.parametrize(
    ("options", "condition"),
    [
        ({}, "selective"),
        ({"selective": False}, "layer >= 0"),
        ({"selective": False, "top": 3}, "layer >= 0"),
        ({"top": None}, "selective"),
        ({"layers": [0, 2]}, "selective and layer != 1"),
        ({"layers": "-1", "top": None}, "selective and layer == 2"),
        ({"confounded": True}, "selective and confounded"),
        ({"confounded": False, "layers": "0-1"}, "selective and not confounded and layer < 2"),
        ({"polarity": -1}, "selective and polarity == -1"),
        ({"verified": True}, "selective and verified == 'confirmed'"),
        ({"verified": False}, "selective and verified in ('not confirmed', 'general')"),
    ],
)
def test_neurons_are_those_that_pandas_selects(atlas, tables, topic, options, condition):
    expected = entries(tables).query(condition)
    if topic is not None:
        expected = expected[expected["topic"] == topic]
    frame = atlas.neurons(topic, **options)
    assert_rows(frame, expected.head(options.get("top", 50) or NEURONS * len(TOPICS)))
    assert set(frame) == set(expected) - {"counts"}


def test_no_neurons_are_an_empty_frame(atlas, tables):
    frame = atlas.neurons(polarity=0)
    assert len(frame) == 0
    assert set(frame) == set(entries(tables)) - {"counts"}


def test_wrong_arguments_of_neurons_are_refused(atlas):
    with pytest.raises(ExperimentError, match=r"'Sport'.*'Sports'"):
        atlas.neurons("Sport")
    with pytest.raises(ExperimentError, match="0"):
        atlas.neurons(top=0)
    with pytest.raises(SiteError, match=str(LAYERS)):
        atlas.neurons(layers=LAYERS)


def test_layers_that_the_atlas_does_not_describe_are_refused(tmp_path, tables):
    own = tables["neuron"]
    write_small_atlas(tmp_path / "some.duckdb", neuron=own[own["layer"] > 0])
    with Atlas.open(tmp_path / "some.duckdb") as some:
        with pytest.raises(SiteError, match=r"does not describe layers 0;.*choose from 1, 2"):
            some.neurons(layers=0, selective=False)
        found = some.neurons(layers="0-1", selective=False, top=None)
    assert set(found["layer"]) == {1}


def test_a_card_has_all_of_a_neuron(atlas, tables):
    card = atlas.neuron("mlp_act.1.3")
    number = UNITS + 3
    assert plain(card.neuron) == plain(tables["neuron"].iloc[number].to_dict())
    expected = entries(tables)
    assert_rows(card.topics, expected[expected["neuron"] == "mlp_act.1.3"])
    examples = tables["example"].merge(tables["prompt"], on="prompt")
    examples = examples[examples["neuron"] == number].sort_values(["kind", "rank"])
    assert_rows(card.examples.drop(columns="excerpt"), examples.drop(columns="ids"))
    for ids, position, excerpt in zip(
        examples["ids"], examples["position"], card.examples["excerpt"], strict=True
    ):
        words = [WORDS[id].strip() if id else "" for id in ids]
        marked = f"[{words[position]}]"
        expected = [*words[:position], marked, *words[position + 1 : position + 13]]
        assert excerpt == f"{' '.join(filter(None, expected))}…"
    assert card.neighbours["neuron"].tolist() == ["mlp_act.1.4", "mlp_act.1.5"]
    assert card.neighbours["cosine"].tolist() == [0.75, 0.5]


def test_a_neuron_without_neighbours_or_examples_has_empty_tables(tmp_path):
    tables = atlas_tables()
    neurons = tables["neuron"].assign(neighbours=None)
    path = tmp_path / "atlas.duckdb"
    write_small_atlas(path, neuron=neurons, example=tables["example"].head(0))
    with Atlas.open(path) as atlas:
        card = atlas.neuron("mlp_act.0.0")
    assert card.neuron["neighbours"] is None
    assert len(card.neighbours) == len(card.examples) == 0
    assert list(card.neighbours) == ["neuron", "layer", "unit", "cosine"]


def test_neurons_and_topics_have_numbers(atlas):
    assert [atlas.check_topic(name) for name in TOPICS] == list(range(len(TOPICS)))
    assert atlas.check_neuron("mlp_act.2.7") == NEURONS - 1
    assert atlas.check_neuron("blocks.2.mlp.hook_post.7") == NEURONS - 1


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "mlp_act", "mlp_act.3", "mlp_act.3.0", "mlp_act.0.8", "mlp_act.0.-1"),
        *("mlp_out.0.0", "mlp_act.0.0 ", "mlp_act.0.٣", "mlp_act.0." + "9" * 40, HOSTILE),
        *(f"mlp_act.{'9' * 60}.5", f"mlp_act.{'9' * 5000}.5", f"blocks.{'9' * 60}.mlp.hook_post.5"),
    ],
)
def test_an_unknown_neuron_is_reported_with_those_that_exist(atlas, name):
    with pytest.raises(ExperimentError, match=r"mlp_act.*0-2.*0-7") as caught:
        atlas.check_neuron(name)
    assert caught.value.exit_code == 2


def test_moments_and_names_are_those_of_a_layer(atlas, tables):
    frame = tables["neuron"][tables["neuron"]["layer"] == 1]
    mean, sd = atlas.moments(1)
    np.testing.assert_array_equal(mean, frame["mean"])
    np.testing.assert_array_equal(sd, frame["sd"])
    assert mean.dtype == sd.dtype == np.float32
    assert atlas.names(1) == frame["name"].tolist()
    assert atlas.moments(99)[0].shape == (0,)


def test_sql_binds_its_parameters(atlas):
    frame = atlas.sql("SELECT topic FROM topic WHERE name = ?", [HOSTILE])
    assert frame["topic"].tolist() == [2]
    assert len(atlas.sql("FROM topic")) == len(TOPICS)


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE topic",
        "INSERT INTO topic FROM topic",
        "DETACH atlas",
        "ATTACH '{path}' AS again",
        "SET enable_external_access = true",
        "COPY topic TO '{path}.csv'",
        "SELECT 1; DROP TABLE topic",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT 1 FROM parquet_metadata('/etc/passwd')",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT no_column FROM topic",
        "SELECT 'x'::INTEGER",
        "SELECT ?",
        "not sql",
        "",
    ],
)
def test_sql_that_does_more_than_read_is_refused(written, atlas, query):
    path, _ = written
    content = path.read_bytes()
    with pytest.raises(ExperimentError):
        atlas.sql(query.replace("{path}", str(path).replace("'", "''")))
    assert atlas.topics()["name"].tolist() == TOPICS
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


def test_a_parameter_of_no_type_in_sql_is_refused(atlas):
    with pytest.raises(ExperimentError):
        atlas.sql("SELECT ?", [object()])


def test_plain_duckdb_and_pandas_read_the_file(written, tables):
    path, _ = written
    with duckdb.connect(str(path), read_only=True) as connection:
        frame = connection.execute("SELECT name, mean FROM neuron").df()
    assert frame["name"].tolist() == tables["neuron"]["name"].tolist()
    with duckdb.connect(str(path), read_only=True) as connection:
        frame = pd.DataFrame(connection.sql("SELECT * FROM topic").fetchall())
    assert frame[1].tolist() == TOPICS


def test_several_readers_in_one_process_and_in_others(written):
    path, _ = written
    script = f"import duckdb; c = duckdb.connect({str(path)!r}, read_only=True); print(1); input()"
    command = [sys.executable, "-uc", script]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
        Atlas.open(path) as first,
        duckdb.connect(str(path), read_only=True),
        Atlas.open(path) as second,
    ):
        assert process.stdout.readline() == b"1\n"
        assert len(first.neurons()) == len(second.neurons()) > 0
        first.close()
        assert len(second.neurons()) > 0
        process.communicate(b"\n")
    assert process.returncode == 0


def test_threads_share_a_handle(atlas):
    expected = [len(atlas.neurons(name, top=None)) for name in TOPICS]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            frames = pool.map(lambda name: atlas.neurons(name, top=None), TOPICS)
            assert [len(frame) for frame in frames] == expected


def test_a_closed_atlas_cannot_be_read(written):
    atlas = Atlas.open(written[0])
    atlas.close()
    atlas.close()
    with pytest.raises(ValueError, match="closed"):
        atlas.topics()


def test_importing_the_modules_does_not_import_duckdb():
    script = (
        "import sys, neuroscope.storage.atlas_file, neuroscope.storage.atlas_writing\n"
        "assert not {'duckdb', 'pandas', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    "name, nearest",
    [
        (f"mlp_act.{LAYERS + 5}.1", f"mlp_act.{LAYERS - 1}.1"),
        ("mlp_act.1.999", f"mlp_act.1.{UNITS - 1}"),
        ("mpl_act.1.2", "mlp_act.1.2"),
    ],
)
def test_the_nearest_neuron_is_offered(atlas, name, nearest):
    with pytest.raises(ExperimentError, match=rf"did you mean '{re.escape(nearest)}'"):
        atlas.neuron(name)


def test_a_text_form_names_the_file(written):
    atlas = Atlas.open(written[0])
    assert repr(atlas) == f"<Atlas {written[0]}>"
    atlas.close()
    assert repr(atlas) == f"<Atlas {written[0]} (closed)>"
