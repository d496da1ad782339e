"""Paths, sizes and the home folder, and files that are written atomically."""

import os
import stat
import subprocess
import sys

import pytest

from neuroscope.errors import NeuroscopeError
from neuroscope.files import absolute, atomic_write, remove_leftovers, size_text
from neuroscope.home import create_home
from neuroscope.home import home as home_folder


def test_paths_are_absolute_and_expand_the_users_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert absolute("run:1") == tmp_path / "run:1"
    assert absolute("~/acts") == tmp_path / "user" / "acts"
    with pytest.raises(NeuroscopeError, match="~nobody-of-that-name/acts"):
        absolute("~nobody-of-that-name/acts")


@pytest.mark.parametrize(
    ("size", "text"), [(4_642_000_000, "4.6 GB"), (1e6, "1.0 MB"), (999, "1.0 kB"), (0, "0.0 kB")]
)
def test_sizes_have_units(size, text):
    assert size_text(size) == text


def test_a_file_appears_once_it_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with atomic_write(path) as file:
        file.write(b"after")
        assert path.read_text() == "before"
        assert [other.name[:6] for other in tmp_path.iterdir() if other != path] == [".file."]
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_failed_write_keeps_the_previous_content(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"after")
        raise ZeroDivisionError
    assert (path.read_text(), list(tmp_path.iterdir())) == ("before", [path])


def test_two_writers_of_one_file_do_not_mix_their_content(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # which was closed last


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    for name in (".file.0123abcd.tmp", ".gitignore", "file"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".gitignore", "file"}


def test_the_home_is_set_by_the_environment(home, monkeypatch, tmp_path):
    assert home_folder() == home
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("NEUROSCOPE_HOME", "~/scope")
    assert home_folder() == tmp_path / "user" / "scope"
    monkeypatch.setenv("NEUROSCOPE_HOME", "")
    assert home_folder() == tmp_path / "user" / ".neuroscope"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEUROSCOPE_HOME", "here")
    assert home_folder() == tmp_path / "here"
    assert list(tmp_path.iterdir()) == []


def test_the_home_is_created_on_request(home, monkeypatch, tmp_path):
    assert create_home("a", "b") == home / "a" / "b"
    assert (home / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(NeuroscopeError, match=str(tmp_path / "file" / "home")) as raised:
        create_home()
    assert "NEUROSCOPE_HOME" in raised.value.remedy


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_commands_that_write_nothing_create_no_home(home, argument):
    command = [sys.executable, "-m", "flows.cli", argument]
    subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert not home.exists()
