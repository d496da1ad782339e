"""The disk space that activations need, and a disk that is full."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from stored import NEURONS, PROMPTS, Lengths, assert_same, make_activations, tokenise, write

from neuroscope.errors import Option, ResourceError, StoreError
from neuroscope.storage.activation_store import read_activations
from neuroscope.storage.disk import (
    check_free_space,
    disk_errors,
    estimated_bytes,
    free_bytes,
    stored_bytes,
)
from neuroscope.storage.parts import PARQUET


def test_the_size_is_stable_while_other_files_come_and_go(folder):
    write(folder, make_activations())
    before, stop = stored_bytes(folder), threading.Event()

    def create_and_remove():
        while not stop.is_set():
            for name in (".inputs/tokens", "later"):
                (folder / name).mkdir(parents=True)
                for number in range(20):
                    (folder / name / f"part-{number}.parquet").touch()
                shutil.rmtree(folder / name.split("/")[0])

    thread = threading.Thread(target=create_and_remove)
    thread.start()
    try:
        assert {stored_bytes(folder) for _ in range(500)} == {before}
    finally:
        stop.set()
        thread.join()


def test_the_size_counts_tables_and_statistics(folder):
    write(folder, make_activations(), statistics=[Lengths()])
    sizes = {
        kind: sum(path.stat().st_size for path in folder.rglob(f"*{kind}"))
        for kind in (".parquet", ".npz")
    }
    assert min(sizes.values()) > 0
    assert stored_bytes(folder) == sum(sizes.values())
    assert stored_bytes(folder, [PARQUET]) == sizes[".parquet"]


def test_a_disk_that_fills_up_keeps_finished_parts(folder, monkeypatch):
    write_table, room = pq.write_table, iter(range(7))

    def full(*arguments, **options):
        if next(room, None) is None:
            raise OSError(28, "No space left on device")
        write_table(*arguments, **options)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(ResourceError, match=str(folder)):
        write(folder, make_activations())
    monkeypatch.undo()
    assert not list(folder.rglob(".*"))
    assert write(folder, make_activations()) == [1]
    assert_same(read_activations(folder), make_activations())


@pytest.mark.parametrize(("number", "error"), [(28, ResourceError), (5, StoreError)])
def test_a_full_disk_differs_from_other_disk_errors(folder, number, error):
    with pytest.raises(error, match=str(folder)), disk_errors(folder):
        raise OSError(number, "some reason")


def test_activations_that_cannot_fit_are_refused_with_the_sizes(tmp_path):
    folder = tmp_path / "not" / "there"
    check_free_space(folder, 1000)
    option = Option("pool", "mean", "store one row per prompt")
    with pytest.raises(ResourceError, match=r"9,000,000\.0 GB .*100\.0 MB .* GB") as raised:
        check_free_space(folder, 9 * 10**15, [option])
    assert str(folder) in raised.value.problem
    assert raised.value.options == (option,)
    assert free_bytes(folder) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


def test_a_small_disk_accepts_what_fits(tmp_path, monkeypatch):
    monkeypatch.setattr("neuroscope.storage.disk.free_bytes", lambda folder: 21_000_000)
    check_free_space(tmp_path, 10_000_000)
    with pytest.raises(ResourceError, match=r"11\.0 MB and 11\.0 MB .*21\.0 MB"):
        check_free_space(tmp_path, 11_000_000)


def test_the_estimated_size_is_close_to_the_stored_size(folder):
    wide = {
        site: np.random.default_rng(0).normal(size=(3, 50_000)).astype("f4") for site in NEURONS
    }
    write(folder, replace(make_activations(), arrays=wide))
    tokens, characters = len(tokenise(PROMPTS).ids), PROMPTS.characters
    estimate = estimated_bytes(
        rows=3, neurons=100_000, sites=2, tokens=tokens, characters=characters, parts=2
    )
    assert stored_bytes(folder) == pytest.approx(estimate, rel=0.03)
