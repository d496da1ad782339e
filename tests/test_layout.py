"""Rules for all files of the project: exports, docstrings, length and unsafe calls."""

import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

import neuroscope

ROOT = Path(__file__).parents[1]
MAX_LINES = 350


def sources(*folders):
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def test_exported_names_exist_and_are_documented():
    assert sorted(neuroscope.__all__) == neuroscope.__all__
    assert set(neuroscope._HOMES) | {"NeuroscopeError"} == set(neuroscope.__all__)
    for name in neuroscope.__all__:
        assert getattr(neuroscope, name).__doc__, name
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = neuroscope.nothing


def test_every_module_has_a_docstring():
    for path in sources("neuroscope", "flows", "benchmarks"):
        if path.name != "__main__.py":
            module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            assert module.__doc__, path


def test_no_file_is_too_long():
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines())
        for path in sources("neuroscope", "flows", "benchmarks", "tests", "docs")
    }
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_unsafe_function_is_called():
    for path in sources("neuroscope", "flows"):
        text = path.read_text(encoding="utf-8")
        unsafe = r"\bpickle\b|allow_pickle=True|torch\.load\(|yaml\.load\(|shell=True|[^.\w]eval\("
        assert not re.search(unsafe, text), path
        assert "trust_remote_code=True" not in text


def test_what_the_readme_writes_into_the_checkout_is_ignored_by_git():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    folders = re.findall(r"--out (\S+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    paths = [path for out in folders for path in (f"{out}x", f".{out.strip('/')}.lock")]
    command = ["git", "check-ignore", "--no-index", *paths]
    ignored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert paths and ignored.stdout.split() == paths
