"""Steps in a second process."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import _ThreadWakeup

import psutil
import pytest

from flows.second_process import SecondProcessExecutor
from neuroscope.errors import NeuroscopeError, PromptError, ResourceError
from neuroscope.studies.steps import Step


def model_step(function, *arguments):
    return Step("extract", function, arguments, loads_model=True)


def refuse():
    raise PromptError("too long")


def end_this_process(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


def test_only_steps_that_load_a_model_run_in_the_second_process():
    with SecondProcessExecutor() as executor:
        second = executor.submit(model_step(os.getpid)).result()
        assert second != os.getpid()
        assert executor.submit(Step("compare", os.getpid, ())).result() == os.getpid()
        with pytest.raises(PromptError):
            executor.submit(model_step(refuse)).result()
        assert executor.submit(model_step(os.getpid)).result() == second
    assert not psutil.pid_exists(second)


def test_other_processes_of_the_program_are_left_alone():
    import multiprocessing

    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    other.start()
    with SecondProcessExecutor():
        pass
    assert other.is_alive()
    other.kill()
    other.join()


def test_no_thread_of_the_pool_remains_when_the_program_exits(monkeypatch):
    """Python would write to a pipe that such a thread is closing, and print a traceback."""

    def close_slowly(wakeup, close=_ThreadWakeup.close):
        time.sleep(0.5)
        close(wakeup)

    monkeypatch.setattr(_ThreadWakeup, "close", close_slowly)
    before = threading.enumerate()
    with SecondProcessExecutor():
        pass
    assert threading.enumerate() == before


def test_a_killed_process_raises_an_error_that_offers_streaming():
    with SecondProcessExecutor() as executor:
        step = executor.submit(model_step(end_this_process, signal.SIGKILL))
        with pytest.raises(ResourceError) as raised:
            step.result()
        (option,) = raised.value.options
        assert (option.name, option.value) == ("memory", "stream")
        with pytest.raises(ResourceError):  # the process is not restarted
            executor.submit(model_step(os.getpid)).result()


def test_a_crashed_process_is_not_reported_as_out_of_memory():
    with SecondProcessExecutor() as executor:
        step = executor.submit(model_step(end_this_process, signal.SIGSEGV))
        with pytest.raises(NeuroscopeError, match="-11") as raised:
            step.result()
        assert not isinstance(raised.value, ResourceError)


def test_the_second_process_ends_if_the_first_is_killed():
    code = """if True:
        import os, signal
        from flows.second_process import SecondProcessExecutor
        from neuroscope.studies.steps import Step
        executor = SecondProcessExecutor()
        print(executor.submit(Step("", os.getpid, (), loads_model=True)).result(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    first = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    second = find_process(int(first.stdout))
    psutil.wait_procs([second] if second else [], timeout=30)
    assert not psutil.pid_exists(int(first.stdout))


def find_process(pid):
    """Return a process, or None if it has ended."""
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
