"""What `neuroscope up` is made of, with tiny processes instead of the servers."""

import ast
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
import yaml

from flows.processes import (
    MARK,
    Children,
    check_alone,
    check_ports,
    marked_processes,
    signals_interrupt,
)
from flows.stack import REPOSITORY, WORK_POOL, Stack, deployment_names, stack_environment, up
from neuroscope.errors import StackError

LASTS = "import time; print('here', flush=True); time.sleep(600)"
FAILS = "import sys; print('the reason why'); sys.exit(3)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + LASTS
# leaves a note, in the file it is given, when it is told to end
FLOW = """
    import pathlib, signal, sys
    def end(*_):
        pathlib.Path(sys.argv[1]).write_text("closed what it opened")
        sys.exit()
    signal.signal(signal.SIGTERM, end)
    print("here", flush=True)
    signal.pause()
"""
PARENT = """
    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, *sys.argv[1:]], start_new_session=True)
    print(child.pid, flush=True)
    child.wait()
    time.sleep(600)
"""


def python(code):
    return "-c", textwrap.dedent(code)


@pytest.fixture
def children(tmp_path):
    made = Children(tmp_path / "logs", {**os.environ})
    yield made
    made.kill()
    assert mine() == []


def mine():
    """The processes that this one has started as children and that still run."""
    return [
        one.pid for one, found in marked_processes() if found[MARK].startswith(f"{os.getpid()}.")
    ]


def said(children, logs, name):
    """The first line that a child prints, once it has."""
    children.wait_until(name, lambda: "\n" in (logs / f"{name}.log").read_text(), 30)
    return (logs / f"{name}.log").read_text().splitlines()[0]


def grandchild(children, log):
    """What the child `worker`, a PARENT, has started, once that says that it is there."""
    children.wait_until("worker", lambda: "here" in log.read_text(), 30)
    return psutil.Process(int(next(filter(str.isdigit, log.read_text().split()))))


class TinyStack(Stack):
    """A stack of other processes; they are `programs`, name -> arguments of Python."""

    def __init__(self, programs, folder, **options):
        super().__init__(1, 2, folder=folder, **options)
        self.programs = programs
        self.pids = []

    def _start(self, names):
        for name, arguments in self.programs.items():
            self.pids.append(self._children.start(name, *arguments))
            said(self._children, self._home / "logs", name)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a prefect.yaml; the ports do not matter."""
    monkeypatch.setattr("flows.stack.check_ports", lambda ports: None)
    (tmp_path / "prefect.yaml").write_text("deployments: [{name: compare}]")
    return tmp_path


def test_a_port_in_use_is_named_with_its_option():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port} .* --mlflow-port"):
            check_ports({"--mlflow-port": port, "--prefect-port": 1})


def test_a_stack_looks_at_the_ports_before_it_starts_anything():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StackError, match="--prefect-port"):
            up(port + 1, port, on_ready=print)
    assert mine() == []


def test_a_port_that_was_just_used_is_free_again():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            pass  # the connection stays in TIME_WAIT
    check_ports({"--mlflow-port": port})


@pytest.mark.parametrize("ports", [(5000, 5000), (5000, 70000)])
def test_impossible_ports_are_refused(ports):
    with pytest.raises(StackError, match="--prefect-port"):
        check_ports(dict(zip(("--mlflow-port", "--prefect-port"), ports, strict=True)))


def test_without_the_repository_the_error_says_what_to_do(tmp_path):
    with pytest.raises(StackError, match=r"prefect\.yaml is missing.*Clone it"):
        Stack(folder=tmp_path).__enter__()


def test_a_child_that_dies_ends_the_stack_with_its_last_words(folder):
    stack = TinyStack({"mlflow": python(LASTS), "prefect": python(FAILS)}, folder)
    with (
        pytest.raises(StackError, match=r"(?s)prefect has ended \(exit code 3\).*the reason why"),
        stack,
    ):
        stack.wait()
    assert len(stack.pids) == 2
    assert not any(map(psutil.pid_exists, stack.pids))


def test_an_interruption_while_starting_stops_what_has_started(folder, monkeypatch):
    def interrupt(self, name, ready, limit):
        raise KeyboardInterrupt

    monkeypatch.setattr(Children, "wait_until", interrupt)
    stack = TinyStack({"mlflow": python(LASTS)}, folder)
    with pytest.raises(KeyboardInterrupt):
        stack.__enter__()
    assert len(stack.pids) == 1 and not psutil.pid_exists(stack.pids[0])


def test_flows_are_told_to_end_before_the_worker_is(folder, home):
    note = folder / "note"
    worker = (*python(PARENT), *python(FLOW), str(note))
    messages = []
    with TinyStack({"worker": worker}, folder, say=messages.append) as stack:
        flow = grandchild(stack._children, home / "logs" / "worker.log")
    assert note.read_text() == "closed what it opened"
    assert messages == ["stopping, with 1 running flow(s)"]
    assert not flow.is_running()


def test_a_stack_is_stopped_even_where_nobody_listens_any_more(folder):
    def gone(message):
        raise BrokenPipeError

    with TinyStack({"mlflow": python(LASTS)}, folder, say=gone) as stack:
        pass
    assert not psutil.pid_exists(stack.pids[0])


def test_killing_reaches_grandchildren_that_ignore_signals(children, tmp_path):
    children.start("worker", *python(PARENT), *python(STUBBORN))
    found = grandchild(children, tmp_path / "logs" / "worker.log")
    assert children.below("worker") == [found]
    children.stop("worker")  # what it has started is now an orphan
    assert found.is_running()
    children.kill()
    found.wait(10)
    assert mine() == []


def test_a_child_that_is_not_ready_in_time_is_named(children):
    children.start("mlflow", *python(LASTS))
    with pytest.raises(StackError, match="mlflow is not ready after 1 seconds"):
        children.wait_until("mlflow", lambda: False, 1)


def test_a_program_that_fails_is_told_from_one_that_ends(children):
    children.run("fine", *python("print('done')"), limit=30)
    with pytest.raises(StackError, match=r"(?s)upgrade failed \(exit code 3\).*the reason why"):
        children.run("upgrade", *python(FAILS), limit=30)
    children.check()


def test_a_second_stack_in_the_same_home_is_refused(children, tmp_path, home):
    other = Children(tmp_path / "logs", {**os.environ, "NEUROSCOPE_HOME": str(home)})
    other.start("mlflow", *python(LASTS))
    with pytest.raises(StackError, match=f"process {os.getpid()} already runs"):
        check_alone("NEUROSCOPE_HOME", str(home))
    check_alone("NEUROSCOPE_HOME", str(home / "elsewhere"))
    children.kill()  # these only
    with pytest.raises(StackError):
        check_alone("NEUROSCOPE_HOME", str(home))
    other.kill()
    check_alone("NEUROSCOPE_HOME", str(home))


def test_what_a_killed_stack_has_left_is_named(tmp_path, home):
    code = f"""
        import os, pathlib, signal
        from flows.processes import Children
        children = Children(pathlib.Path({str(tmp_path)!r}), dict(os.environ))
        print(children.start("mlflow", "-c", {LASTS!r}), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, *python(code)], stdout=subprocess.PIPE, text=True)
    left = int(killed.stdout)
    try:
        with pytest.raises(StackError, match=rf"left others behind.*`kill {left}`"):
            check_alone("NEUROSCOPE_HOME", str(home))
    finally:
        os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_stack_in_order(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert signal.getsignal(number) is before


def test_flows_find_both_servers_and_no_telemetry(monkeypatch, home):
    monkeypatch.setenv("MLFLOW_RUN_ID", "another's")
    monkeypatch.setenv("no_proxy", "example.org")
    found = stack_environment("http://127.0.0.1:5", "http://127.0.0.1:4")
    assert found["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5"
    assert found["PREFECT_API_URL"] == "http://127.0.0.1:4/api"
    assert found["PREFECT_HOME"] == str(home / "prefect")
    assert found["NO_PROXY"] == "example.org,127.0.0.1"
    assert found["MLFLOW_DISABLE_TELEMETRY"] == found["DO_NOT_TRACK"] == "true"
    assert "MLFLOW_RUN_ID" not in found


def test_a_prefect_home_of_the_users_own_is_kept(monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", "/own")
    assert stack_environment("", "")["PREFECT_HOME"] == "/own"


def test_every_deployment_is_complete_and_its_flow_exists():
    project = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    assert project["name"] == "neuroscope"
    assert "compare" in deployment_names(REPOSITORY)
    for deployment in project["deployments"]:
        assert deployment["description"] and deployment["tags"]
        assert deployment["work_pool"]["name"] == WORK_POOL
        file, function = deployment["entrypoint"].split(":")
        tree = ast.parse((REPOSITORY / file).read_text())
        found = [one for one in tree.body if getattr(one, "name", "") == function]
        assert found, deployment["entrypoint"]
        assert any("flow" in ast.unparse(one) for one in found[0].decorator_list)


def test_prefect_yaml_names_no_folder():
    project = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    assert "pull" not in project  # Prefect notes the folder it deploys from
    assert str(REPOSITORY) not in (REPOSITORY / "prefect.yaml").read_text()


def test_importing_it_is_cheap():
    code = """
        import sys, flows.stack
        print({"prefect", "mlflow", "httpx", "psutil", "yaml"} & set(sys.modules))
    """
    found = subprocess.run([sys.executable, *python(code)], stdout=subprocess.PIPE, text=True)
    assert found.stdout.strip() == "set()"
