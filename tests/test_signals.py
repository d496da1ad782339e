"""Interruption of commands, with real processes."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import psutil
import pytest

from neuroscope import read_activations
from neuroscope.home import home
from neuroscope.reporting.tracking import Tracker

CLI = ("-m", "flows.cli")
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture
def start():
    """Return a function that starts Python as a terminal does; kill its processes at the end."""
    started = []

    def command(*arguments):
        command_line = [sys.executable, *arguments]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command_line, start_new_session=True, **pipes))
        return started[-1]

    yield command
    for process in started:
        process.kill()
        process.communicate()


def wait_for(ready, process):
    """Call `ready` until its result is true, while the process runs; return that result."""
    while not (result := ready()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    return result


def handles_signals(process):
    """Return whether the process has installed a handler of SIGTERM."""
    with open(f"/proc/{process.pid}/status") as status:
        (caught,) = [line.split()[1] for line in status if line.startswith("SigCgt")]
    return int(caught, 16) >> (signal.SIGTERM - 1) & 1


def statuses():
    """Return the status of every recorded run, read without MLflow, which takes a core."""
    with closing(sqlite3.connect(home() / "mlflow.db")) as database:
        return [status for (status,) in database.execute("SELECT status FROM runs")]


def interrupt(process, number, *, times=1):
    """Send a signal; check that the process and its children end properly.

    Ctrl-C reaches all processes of the group, SIGTERM only the command.
    """
    children = psutil.Process(process.pid).children(recursive=True)
    for _ in range(times):
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        time.sleep(0.1)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 128 + number, printed
    assert "interrupted" in printed
    assert "Traceback" not in printed and "Abort" not in printed
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def assert_usable():
    """Check that the database is not locked."""
    with Tracker.open().run("compare", "afterwards"):
        pass
    assert "FINISHED" in statuses()


MOMENTS = {
    "while it starts": lambda process: wait_for(lambda: handles_signals(process), process),
    "when a run is open": lambda process: wait_for(lambda: "RUNNING" in statuses(), process),
    "in the middle": lambda process: (
        wait_for(lambda: "RUNNING" in statuses(), process),
        time.sleep(1),
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupted_comparison_leaves_no_open_run(start, number, moment, database):
    process = start(*CLI, "compare", "The cat is on the mat", "The dog is on the mat")
    MOMENTS[moment](process)
    interrupt(process, number)
    assert "RUNNING" not in statuses()
    assert_usable()


@pytest.fixture
def experiment(tmp_path):
    """Write an experiment that takes a while; return its path."""
    path = tmp_path / "long.yaml"
    fills = ", ".join(f"cat{index}" for index in range(30))
    path.write_text(
        "kind: compare\nname: long\nmodels: [minilm]\nprompts:\n"
        f"  - template: 'The {{}} is on the mat'\n    fills: [{fills}]\n"
    )
    return path


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupted_flow_leaves_no_open_run(start, number, moment, database, experiment):
    process = start(*CLI, "run", str(experiment))
    MOMENTS[moment](process)
    interrupt(process, number)
    assert "RUNNING" not in statuses()
    assert_usable()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_a_comparison_immediately(start, number, database):
    process = start(*CLI, "compare", "The cat is on the mat", "The dog is on the mat")
    MOMENTS["when a run is open"](process)
    interrupt(process, number, times=2)
    Tracker.open()  # closes the runs of ended processes
    assert set(statuses()) == {"KILLED"}


ENDING = """
import pathlib, sys, time
from flows.signals import interruptible

def kept():
    pathlib.Path(sys.argv[1]).touch()
    time.sleep(60)

with interruptible(kept):
    time.sleep(60)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_a_command_that_is_ending(start, number, tmp_path):
    process = start("-c", ENDING, str(tmp_path / "ending"))
    wait_for(lambda: handles_signals(process), process)
    os.kill(process.pid, number)
    wait_for((tmp_path / "ending").exists, process)
    interrupt(process, number)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["while it starts", "in the middle"])
def test_an_interrupted_extraction_is_resumed(start, number, moment, tmp_path, family_folder):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"the cat sits {index} .\n" for index in range(20_000)))
    out = tmp_path / "out"
    model = ["--model", str(family_folder("bert")), "--device", "cpu", "--pool", "none"]
    command = [*CLI, "extract", str(prompts), "--out", str(out), *model, "--site", "mlp_act"]
    process = start(*command)
    wait_for(lambda: handles_signals(process), process)
    if moment == "in the middle":
        wait_for(lambda: list(out.rglob("*.parquet")), process)
    interrupt(process, number)
    assert not (out / "manifest.json").exists()
    resumed = start(*command)
    resumed.communicate(timeout=120)
    assert resumed.returncode == 0
    assert len(read_activations(out, []).prompts) == 20_000


def test_an_interruption_does_not_wait_for_a_step_of_a_flow(start, database):
    code = """if True:
        import time
        from flows.environment import prepare_environment
        prepare_environment()
        from prefect import flow
        from flows.executor import PrefectExecutor
        from flows.prefect_server import start_embedded_server
        from flows.signals import deferred, interruptible
        from neuroscope.reporting.tracking import Tracker

        @flow
        def long():
            with (
                deferred(),
                Tracker.open().run("compare", "long"),
                PrefectExecutor() as executor,
            ):
                executor.submit(time.sleep, 600).result()

        @interruptible("")
        def main():
            start_embedded_server()
            long()

        main()
    """
    process = start("-c", code)
    MOMENTS["in the middle"](process)
    interrupt(process, signal.SIGTERM)
    assert statuses() == ["KILLED"]


@pytest.mark.parametrize(("error", "code"), [("SyntaxError", 143), ("NeuroscopeError", 1)])
def test_after_a_signal_only_our_own_errors_keep_their_report(start, error, code):
    process = start(
        "-c",
        f"""if True:
        import os, signal, time
        from flows.signals import interruptible
        from neuroscope.errors import NeuroscopeError

        @interruptible("")
        def main():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            except KeyboardInterrupt as interruption:
                raise {error}("what a library made of it") from interruption

        main()
        """,
    )
    _, printed = process.communicate(timeout=60)
    assert process.returncode == code
    assert ("Traceback" in printed) == (error == "NeuroscopeError")


def test_nothing_is_deferred_outside_of_a_command():
    code = """if True:
        import os, signal
        from flows.signals import check, deferred
        with deferred():
            check()
            os.kill(os.getpid(), signal.SIGTERM)
    """
    process = subprocess.run([sys.executable, "-c", code], env=os.environ)
    assert process.returncode == -signal.SIGTERM
