"""The parts of the project and the direction of their imports."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import neuroscope

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "neuroscope"
NOUNS = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
ALLOWED = {
    "stats": {"stats"},
    "extraction": {"extraction", "stats", *NOUNS},
    "storage": {"storage", *NOUNS},
    "reporting": {"reporting", *NOUNS},
    "studies": {"studies", "reporting", "storage", "extraction", "stats", *NOUNS},
}
HOMES = {
    "mlflow": {"neuroscope/reporting/tracking.py"},
    "prefect": {"flows/compare.py", "flows/executor.py", "flows/prefect_server.py"},
    "transformers": {
        "neuroscope/extraction/models.py",
        "neuroscope/extraction/streaming.py",
        "flows/second_process.py",
    },
    "greenlet": {"neuroscope/extraction/streaming.py"},
    "typer": {"flows/cli.py"},
}
"""Outside library -> the files that import it."""


def imports(path):
    """Every module that a file imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def sources():
    return [path for folder in ("neuroscope", "flows") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_downwards(part):
    for path in (PACKAGE / part).rglob("*.py"):
        for name in imports(path):
            top, _, rest = name.partition(".")
            assert top != "flows", f"{path} imports {name}"
            if top == "neuroscope" and rest:
                assert rest.split(".")[0] in ALLOWED[part], f"{path} imports {name}"


def test_the_nouns_use_nothing_above_them():
    for path in PACKAGE.glob("*.py"):
        if path.stem != "__init__":
            for name in imports(path):
                if name.startswith("neuroscope."):
                    assert name.split(".")[1] in NOUNS, f"{path} imports {name}"


@pytest.mark.parametrize("library", HOMES)
def test_an_outside_library_has_its_home_files(library):
    users = {
        str(path.relative_to(ROOT))
        for path in sources()
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users == HOMES[library]


def test_exported_names_are_there_and_documented():
    assert sorted(neuroscope.__all__) == neuroscope.__all__
    assert set(neuroscope._HOMES) | {"NeuroscopeError"} == set(neuroscope.__all__)
    for name in neuroscope.__all__:
        assert getattr(neuroscope, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = neuroscope.nothing


def test_the_file_tree_in_the_readme_is_true():
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("## File tree")[1]
    for line in re.findall(
        r"^([\w./-]+\.(?:py|yaml|j2|txt|toml|md)|Makefile|\.ci/run) ", tree, re.M
    ):
        assert (ROOT / line).exists(), f"README names {line}, which is not there"
    for path in sources():
        if path.name != "__init__.py":
            assert str(path.relative_to(ROOT)) in tree, f"README does not name {path}"


def test_every_part_says_what_it_is():
    for path in sources():
        module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        assert module.__doc__, path


def test_every_experiment_key_is_documented():
    from neuroscope import experiment

    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    for part in (experiment.Experiment, experiment.PromptGroup, experiment.PublishedFigures):
        for key, field in part.model_fields.items():
            assert field.description, key
            assert f"`{key}`" in text, f"docs/experiments.md does not explain {key}"


def test_every_site_and_alias_is_documented():
    from neuroscope.sites import _ALIASES, COMPONENTS

    lines = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8").splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert set(rows) >= set(COMPONENTS)
    for alias, component in _ALIASES.items():
        assert f"`{alias}`" in rows[component], f"docs/comparing.md does not name {alias}"


def test_nothing_unsafe_is_called():
    for path in sources():
        text = path.read_text(encoding="utf-8")
        unsafe = r"\bpickle\b|torch\.load\(|yaml\.load\(|shell=True|[^.\w]eval\("
        assert not re.search(unsafe, text), path
        assert "trust_remote_code=True" not in text
