"""Two writers of one folder of activations."""

import threading

import pytest
from stored import assert_same, make_activations, manifest, refuse, tokenise, write, writing

from neuroscope.errors import PromptError
from neuroscope.storage.activation_store import read_activations
from neuroscope.storage.locks import locked_if_free


def second_writer(folder, missing):
    """Return a thread that writes the same, and an event that is set when it has to wait."""
    waits = threading.Event()

    def progress(task, done, total):
        assert task == "wait for another process"
        waits.set()

    def run():
        with writing(folder, manifest(), progress=progress) as writer:
            missing.append(writer.missing)
            writer.finish()

    return threading.Thread(target=run), waits


def test_a_second_writer_waits_and_has_nothing_left_to_do(folder):
    missing = []
    thread, waits = second_writer(folder, missing)
    with writing(folder, manifest()) as writer:
        thread.start()
        assert waits.wait(10)
        for number in (0, 1):
            writer.write_part(number, make_activations())
        writer.finish()
    thread.join(10)
    assert missing == [[]]
    assert_same(read_activations(folder), make_activations())


def test_a_second_writer_continues_if_the_first_fails(folder):
    missing = []
    thread, waits = second_writer(folder, missing)

    def refuse_later(prompts):
        thread.start()
        assert waits.wait(10)
        refuse(prompts)

    with pytest.raises(PromptError), writing(folder, manifest(), tokenise=refuse_later):
        pass
    thread.join(10)
    assert missing == [[0, 1]]


def test_complete_activations_are_read_while_another_process_writes(folder):
    write(folder, make_activations())
    with writing(folder, manifest(), tokenise=tokenise):
        assert_same(read_activations(folder), make_activations())


def test_locked_if_free_does_not_wait_for_a_held_lock(folder):
    folder.mkdir()
    with writing(folder, manifest()), locked_if_free(folder) as free:
        assert not free
    with locked_if_free(folder) as free:
        assert free
