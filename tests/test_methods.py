"""docs/methods.md has every measure that the studies declare."""

import pkgutil
import re
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

import neuroscope.studies
from neuroscope.reporting.metrics import Metric
from neuroscope.stats.divergence import KLSummary
from neuroscope.storage.atlas_schema import TABLES
from neuroscope.studies.drift.agreement import Decision, SiteAgreement
from neuroscope.studies.drift.explanation import TokenDrift, TopicDrift
from neuroscope.studies.drift.neurons import NeuronDrift
from neuroscope.studies.drift.readers import Reader
from neuroscope.studies.drift.result import FinalChange, PartRow
from neuroscope.studies.drift.rewording import Rewording
from neuroscope.studies.study import STUDIES

TEXT = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
HEADINGS = {"compare": "Comparing prompts", "layers": "Comparing layers and models"}
"""Kind of study -> heading of its section; other kinds have their own name as the heading."""


def section(kind):
    """Return the section of a study, without the headings of others."""
    heading = HEADINGS.get(kind, kind.capitalize())
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)[1]


def missing(kind, names):
    """Return the names that the section of a study does not have in code font."""
    prose = re.sub(r"```.*?```", "", section(kind), flags=re.DOTALL)
    spans = set(re.findall(r"`([^`]+)`", prose))
    return sorted(set(names) - spans)


def declared(kind):
    """Yield the names of the metrics in all modules of a study."""
    package = import_module(f"neuroscope.studies.{kind}")
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for value in vars(import_module(info.name)).values():
            values = value.values() if isinstance(value, Mapping) else [value]
            yield from (metric.name for metric in values if isinstance(metric, Metric))


def kinds():
    """Return the folders of the studies, with and without a kind of experiment."""
    return [info.name for info in pkgutil.iter_modules(neuroscope.studies.__path__) if info.ispkg]


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind != "store"])
def test_every_metric_of_a_study_has_an_entry(kind):
    names = set(declared(kind))
    assert names and missing(kind, names) == []


def test_every_study_is_walked():
    assert set(STUDIES) <= set(kinds())


def test_every_measure_in_an_atlas_has_an_entry():
    tables = "covariate", "neuron", "selectivity", "direction"
    columns = [column for table in tables for column in TABLES[table]]
    names = [column.name for column in columns if column.type in ("REAL", "DOUBLE")]
    assert len(names) > 20
    assert missing("atlas", [*names, "promotes", "suppresses", "neighbours"]) == []


@pytest.mark.parametrize(
    "row",
    [
        *(SiteAgreement, Decision, KLSummary, FinalChange, Rewording, TopicDrift),
        *(NeuronDrift, TokenDrift, Reader, PartRow),
    ],
)
def test_every_number_in_the_result_of_a_check_has_an_entry(row):
    names = [field.name for field in fields(row) if field.type in (float, "float")]
    assert names and missing("drift", names) == []


def test_headings_are_unique_so_that_they_can_be_linked():
    headings = re.findall(r"^#+ (.+)$", TEXT.lower(), re.MULTILINE)
    assert len(headings) > 60 and len(set(headings)) == len(headings)
