"""The disk space that activations need, and a disk that is full."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from stored import NEURONS, PROMPTS, Lengths, assert_same, make, tokenise, write

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


def test_the_size_is_known_while_another_process_writes(folder):
    write(folder, make())
    before, stop = stored_bytes(folder), threading.Event()

    def come_and_go():
        while not stop.is_set():
            for name in (".inputs/tokens", "later"):
                (folder / name).mkdir(parents=True)
                for number in range(20):
                    (folder / name / f"part-{number}.parquet").touch()
                shutil.rmtree(folder / name.split("/")[0])

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        assert {stored_bytes(folder) for _ in range(500)} == {before}
    finally:
        stop.set()
        thread.join()


def test_the_size_counts_tables_and_statistics(folder):
    write(folder, make(), statistics=[Lengths()])
    sizes = {
        kind: sum(path.stat().st_size for path in folder.rglob(f"*{kind}"))
        for kind in (".parquet", ".npz")
    }
    assert min(sizes.values()) > 0
    assert stored_bytes(folder) == sum(sizes.values())
    assert stored_bytes(folder, [PARQUET]) == sizes[".parquet"]


def test_a_disk_that_fills_keeps_what_is_finished(folder, monkeypatch):
    write_table, room = pq.write_table, iter(range(7))

    def full(*arguments, **options):
        if next(room, None) is None:
            raise OSError(28, "No space left on device")
        write_table(*arguments, **options)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(ResourceError, match=str(folder)):
        write(folder, make())
    monkeypatch.undo()
    assert not list(folder.rglob(".*"))
    assert write(folder, make()) == [1]
    assert_same(read_activations(folder), make())


@pytest.mark.parametrize(("number", "kind"), [(28, ResourceError), (5, StoreError)])
def test_errors_of_the_disk_are_told_apart(folder, number, kind):
    with pytest.raises(kind, match=str(folder)), disk_errors(folder):
        raise OSError(number, "some reason")


def test_what_cannot_fit_is_refused_with_the_sizes(tmp_path):
    folder = tmp_path / "not" / "there"
    check_free_space(folder, 1000)
    option = Option("pool", "mean", "store one row per prompt")
    with pytest.raises(ResourceError, match=r"9,000,000\.0 GB .*100\.0 MB .* GB") as refused:
        check_free_space(folder, 9 * 10**15, [option])
    assert str(folder) in refused.value.problem
    assert refused.value.options == (option,)
    assert free_bytes(folder) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


def test_a_small_disk_takes_a_small_job(tmp_path, monkeypatch):
    monkeypatch.setattr("neuroscope.storage.disk.free_bytes", lambda folder: 21_000_000)
    check_free_space(tmp_path, 10_000_000)
    with pytest.raises(ResourceError, match=r"11\.0 MB and 11\.0 MB .*21\.0 MB"):
        check_free_space(tmp_path, 11_000_000)


def test_the_estimate_is_near_what_is_written(folder):
    wide = {
        site: np.random.default_rng(0).normal(size=(3, 50_000)).astype("f4") for site in NEURONS
    }
    write(folder, replace(make(), arrays=wide))
    tokens, characters = len(tokenise(PROMPTS).ids), PROMPTS.characters
    estimate = estimated_bytes(
        rows=3, neurons=100_000, sites=2, tokens=tokens, characters=characters, parts=2
    )
    assert stored_bytes(folder) == pytest.approx(estimate, rel=0.03)
