"""The room that activations need, and a disk that has it not."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from stored import (
    NEURONS,
    PROMPTS,
    assert_same,
    make,
    tokenise,
    write,
)

from neuroscope.errors import ResourceError
from neuroscope.storage.activation_store import read_activations
from neuroscope.storage.disk import check_room, estimated_bytes, free_bytes, stored_bytes


def test_the_size_is_told_while_another_process_writes(folder):
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


def test_a_disk_that_fills_keeps_what_is_finished(folder, monkeypatch):
    write_table, room = pq.write_table, iter(range(7))

    def full(*arguments, **options):
        if next(room, None) is None:
            raise OSError(28, "No space left on device")
        write_table(*arguments, **options)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(ResourceError, match=r"No space left on device.*make room and run"):
        write(folder, make())
    monkeypatch.undo()
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]
    assert write(folder, make()) == [1]
    assert_same(read_activations(folder), make())


def test_what_cannot_fit_is_refused_with_the_figures(tmp_path):
    check_room(tmp_path / "not" / "there", 1000)
    with pytest.raises(
        ResourceError,
        match=r"needs about 9,000,000.0 GB, and 100.0 MB to spare, but [\d,]+\.\d GB are free",
    ):
        check_room(tmp_path / "not" / "there", 9 * 10**15)
    assert free_bytes(tmp_path / "x") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


def test_a_small_disk_takes_a_small_job(tmp_path, monkeypatch):
    monkeypatch.setattr("neuroscope.storage.disk.free_bytes", lambda folder: 21_000_000)
    check_room(tmp_path, 10_000_000)
    with pytest.raises(ResourceError, match=r"about 11.0 MB, and 11.0 MB to spare, but 21.0 MB"):
        check_room(tmp_path, 11_000_000)


def test_the_estimate_is_near_what_is_written(folder):
    wide = {
        site: np.random.default_rng(0).normal(size=(3, 50_000)).astype("f4") for site in NEURONS
    }
    write(folder, replace(make(), arrays=wide))
    tokens, characters = len(tokenise(PROMPTS).ids), PROMPTS.characters
    guess = estimated_bytes(
        rows=3, neurons=100_000, sites=2, tokens=tokens, characters=characters, parts=2
    )
    assert stored_bytes(folder) == pytest.approx(guess, rel=0.03)
