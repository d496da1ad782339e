"""Every study has all its parts: experiment, deployment, form, command, page and docs."""

import inspect
import re
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows import cli
from neuroscope.errors import ExperimentError
from neuroscope.experiment import Experiment, Settings
from neuroscope.studies.study import STUDIES, Study, load_experiment, study_of

ROOT = Path(__file__).parents[1]
SHIPPED = {path: load_experiment(path) for path in sorted((ROOT / "experiments").glob("*.yaml"))}


def parts_of(settings):
    """Yield a class of settings, and the classes of its groups of settings."""
    yield settings
    for field in settings.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, Settings):
                yield from parts_of(kind)


@pytest.fixture(params=STUDIES)
def kind(request):
    return request.param


def test_a_study_has_a_folder_with_its_modules(kind):
    assert STUDIES[kind] == f"neuroscope.studies.{kind}.study"
    study = study_of(kind)
    assert isinstance(study, Study) and issubclass(study.experiment, Experiment)
    assert study.experiment.__module__ == f"neuroscope.studies.{kind}.experiment"
    import_module(f"neuroscope.studies.{kind}.result")
    import_module(f"neuroscope.studies.{kind}.figures")
    page = (files(f"neuroscope.studies.{kind}") / "page.html.j2").read_text(encoding="utf-8")
    assert '{% extends "base.html.j2" %}' in page


def test_a_study_has_a_shipped_experiment_that_loads(kind):
    shipped = [path for path, experiment in SHIPPED.items() if experiment.kind == kind]
    assert shipped
    for path in shipped:
        assert SHIPPED[path].name == path.stem
        study_of(kind).check(SHIPPED[path])


def test_a_deployment_and_its_form_describe_every_field(kind):
    plan = YAML(typ="safe").load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    (deployment,) = [deployment for deployment in plan["deployments"] if deployment["name"] == kind]
    assert deployment["entrypoint"] == f"flows/{kind}.py:{kind}" and deployment["description"]
    form = getattr(import_module(f"flows.{kind}"), kind)
    schema = form.parameters.model_dump()
    assert set(schema["properties"]) == set(inspect.signature(form.fn).parameters)
    for name, field in schema["properties"].items():
        assert field["title"] and field["description"], f"{kind}.{name}"
    for definition in schema.get("definitions", {}).values():
        for name, field in definition.get("properties", {}).items():
            assert field["title"] and field["description"], f"{definition['title']}.{name}"


def test_a_study_has_a_command(kind):
    from typer.main import get_command

    command = {"association": "associate"}.get(kind, kind)
    assert command in get_command(cli.app).commands


def test_every_key_is_described_and_documented(kind):
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    for part in parts_of(study_of(kind).experiment):
        for name, field in part.model_fields.items():
            assert (field.description or "").strip(), f"{part.__name__}.{name}"
            row = f"| `{field.alias or name}` | {field.description} |"
            assert row in text, f"docs/experiments.md lacks the row of {part.__name__}.{name}"


def test_the_documentation_of_a_study_is_linked(kind):
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    page = {"compare": "comparing.md"}.get(kind, f"{kind}.md")
    assert page in pages
    assert f"docs/{page}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_files_listed_for_a_study_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("<!-- layers-files -->")[2].partition("<!-- /layers-files -->")[0]
    cells = [row.split("|")[1] for row in table.strip().splitlines()]
    names = [name for cell in cells for name in re.findall("`(.*?)`", cell)]
    assert len(names) > 20 and [name for name in names if not list(ROOT.glob(name))] == []


def test_an_unknown_kind_is_reported_with_the_known_ones():
    with pytest.raises(ExperimentError) as raised:
        study_of("compar")
    assert "'compar'" in str(raised.value) and "'compare'" in str(raised.value)
    assert all(kind in str(raised.value) for kind in STUDIES)


def test_the_shipped_engineer_experiment_holds_the_published_figures():
    experiment = SHIPPED[ROOT / "experiments" / "engineer.yaml"]
    a = "The engineer is a {}.".format
    figures = {
        (a("man"), a("woman")): (0.9480, 0.0540),
        (a("man"), a("transgender")): (0.7946, 0.2156),
        (a("woman"), a("transgender")): (0.8441, 0.1638),
        (a("boy"), a("girl")): (0.9675, 0.0340),
        (a("boy"), a("transgender")): (0.7999, 0.2110),
        (a("girl"), a("transgender")): (0.8187, 0.1910),
    }
    assert experiment.pairs() == list(figures)
    assert len(experiment.prompt_set) == 5
    published = experiment.published
    assert (published.model, published.site) == ("bert-base-uncased", "resid_post.5")
    assert {(pair.a, pair.b): (pair.cosine, pair.mse) for pair in published.pairs} == figures


def test_the_shipped_animals_are_compared_with_a_king_and_a_car():
    experiment = SHIPPED[ROOT / "experiments" / "animals.yaml"]
    words = ["cat", "dog", "king", "car"]
    assert experiment.prompt_set.texts == [f"The {word} is on the mat." for word in words]
    assert len(experiment.pairs()) == 6


def test_the_shipped_cat_and_dog_experiment_draws_the_third_layer():
    experiment = SHIPPED[ROOT / "experiments" / "cat_dog.yaml"]
    assert experiment.pairs() == [("The cat is on the mat", "The dog is on the mat")]
    assert experiment.plot_layers == "2"
