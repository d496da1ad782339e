"""The parts of `neuroscope up`, with tiny processes in place of the servers."""

import ast
import os
import signal
import socket
import subprocess
import sys
import textwrap

import psutil
import pytest
from ruamel.yaml import YAML

from flows.prefect_server import WORK_POOL
from flows.processes import MARK, Children, check_alone, check_ports, marked_processes
from flows.services import Service, deployment_names, services
from flows.stack import REPOSITORY, Stack, stack_environment, up
from neuroscope.errors import ResourceError, StackError

LASTS = "import time; print('here', flush=True); time.sleep(600)"
FAILS = "import sys; print('the reason why'); sys.exit(3)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + LASTS
# writes a note into the file named by its argument when it is asked to end
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
    children = Children(tmp_path / "logs", {**os.environ}, limit=30)
    yield children
    children.kill()
    assert own_children() == []


def own_children():
    """Return the ids of the running processes that this one has started as `Children`."""
    owner = f"{os.getpid()}."
    return [process.pid for process, env in marked_processes() if env[MARK].startswith(owner)]


def grandchild(children, log):
    """Return the process that `worker`, a PARENT, has started, once it has printed `here`."""
    children.wait_until("worker", lambda: "here" in log.read_text())
    return psutil.Process(int(next(filter(str.isdigit, log.read_text().split()))))


@pytest.fixture
def stack(tmp_path, monkeypatch, home):
    """Return a function that creates a stack from programs, name -> arguments of Python."""
    monkeypatch.setattr("flows.stack.check_ports", lambda ports: None)

    def stack(programs, **options):
        def printed(name):
            return lambda: "\n" in (home / "logs" / f"{name}.log").read_text()

        tiny = [Service(name, command, printed(name)) for name, command in programs.items()]
        monkeypatch.setattr("flows.stack.services", lambda *arguments: tiny)
        return Stack(limit=30, **options)

    return stack


@pytest.fixture
def taken_port():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_in_use_is_reported_with_a_free_one(taken_port):
    with pytest.raises(StackError, match=f"{taken_port}.*mlflow") as raised:
        check_ports({"mlflow": taken_port, "prefect": 1})
    (option,) = raised.value.options
    assert option.name == "mlflow_port"
    check_ports({"mlflow": option.value})


def test_a_stack_checks_the_ports_before_it_starts_a_process(taken_port):
    with pytest.raises(StackError, match=f"{taken_port}.*prefect"):
        ports = {"mlflow": taken_port + 1, "prefect": taken_port, "health": taken_port + 2, "ui": 5}
        up(ports, on_ready=print)
    assert own_children() == []


def test_a_port_that_was_just_used_is_free_again():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            pass  # the connection stays in TIME_WAIT
    check_ports({"mlflow": port})


@pytest.mark.parametrize("port", [5017, 70000, 0, -1])
def test_impossible_ports_are_refused(port):
    with pytest.raises(StackError, match=str(port)) as raised:
        check_ports({"mlflow": 5017, "prefect": port})
    (option,) = raised.value.options
    assert option.name == "prefect_port" and option.value != 5017


def test_a_missing_repository_is_reported_with_the_remedy(tmp_path):
    with pytest.raises(StackError, match=r"prefect\.yaml.*pip install -e"):
        Stack(folder=tmp_path).__enter__()


def test_a_full_disk_is_reported_before_anything_starts(home, monkeypatch):
    monkeypatch.setattr("flows.processes.free_bytes", lambda folder: 3_000_000)
    with pytest.raises(ResourceError, match=rf"{home} has 3.0 MB left.*NEUROSCOPE_HOME"):
        Stack().__enter__()
    assert own_children() == []


def test_every_server_has_a_port_and_a_title(tmp_path, home):
    (tmp_path / "prefect.yaml").write_text("deployments: [{name: compare}]")
    ports = {"mlflow": 5, "prefect": 4, "health": 6, "ui": 7}
    listed = services(ports, stack_environment("", ""), tmp_path, 7)
    assert [service.name for service in listed] == [
        "prefect",
        "mlflow",
        "worker",
        "deployment",
        "ui",
        "health",
    ]
    addresses = {service.title: service.address for service in listed if service.title}
    assert addresses == {
        "MLflow": "http://127.0.0.1:5",
        "Prefect": "http://127.0.0.1:4",
        "Interface": "http://127.0.0.1:7",
        "Health": "http://127.0.0.1:6/health",
    }
    assert not any(service.is_ready() for service in listed)  # nothing listens there
    (worker,) = [service for service in listed if service.name == "worker"]
    assert worker.command[-2:] == ("--limit", "7")


def test_a_child_that_fails_ends_the_stack_with_its_output(stack):
    tiny = stack({"mlflow": python(LASTS), "prefect": python(FAILS)})
    with pytest.raises(StackError, match=r"(?s)prefect .*3.*the reason why"), tiny:
        tiny.wait()
    assert own_children() == []


def test_an_interruption_while_starting_stops_the_started_processes(stack, monkeypatch):
    started = []

    def interrupt(self, name, ready):
        started.extend(own_children())
        raise KeyboardInterrupt

    monkeypatch.setattr(Children, "wait_until", interrupt)
    with pytest.raises(KeyboardInterrupt):
        stack({"mlflow": python(LASTS)}).__enter__()
    assert len(started) == 1 and own_children() == []


def test_flows_are_asked_to_end_before_the_worker(stack, tmp_path, home):
    note = tmp_path / "note"
    messages = []
    programs = {"worker": (*python(PARENT), *python(FLOW), str(note))}
    with stack(programs, say=messages.append) as running:
        flow = grandchild(running._children, home / "logs" / "worker.log")
    assert note.read_text() == "closed what it opened"
    (message,) = messages
    assert "1" in message
    assert not flow.is_running()


def test_a_stack_is_stopped_even_if_its_messages_cannot_be_printed(stack):
    def broken_pipe(message):
        raise BrokenPipeError

    with stack({"mlflow": python(LASTS)}, say=broken_pipe):
        assert len(own_children()) == 1
    assert own_children() == []


def test_killing_reaches_grandchildren_that_ignore_signals(children, tmp_path):
    children.start("worker", *python(PARENT), *python(STUBBORN))
    process = grandchild(children, tmp_path / "logs" / "worker.log")
    assert children.below("worker") == [process]
    children.stop("worker")  # its child is now an orphan
    assert process.is_running()
    children.kill()
    process.wait(10)
    assert own_children() == []


def test_a_child_that_is_not_ready_in_time_is_reported(tmp_path):
    children = Children(tmp_path / "logs", {**os.environ}, limit=1)
    children.start("mlflow", *python(LASTS))
    with pytest.raises(StackError, match=r"mlflow .* 1 second"):
        children.wait_until("mlflow", lambda: False)
    children.kill()


def test_a_program_that_fails_raises_an_error(children):
    children.run("fine", *python("print('done')"))
    with pytest.raises(StackError, match=r"(?s)upgrade .*3.*the reason why"):
        children.run("upgrade", *python(FAILS))


def test_a_second_stack_in_the_same_home_is_refused(children, tmp_path, home):
    environment = {**os.environ, "NEUROSCOPE_HOME": str(home)}
    other = Children(tmp_path / "logs", environment, limit=30)
    other.start("mlflow", *python(LASTS))
    with pytest.raises(StackError, match=str(os.getpid())):
        check_alone("NEUROSCOPE_HOME", str(home))
    check_alone("NEUROSCOPE_HOME", str(home / "elsewhere"))
    children.kill()  # does not reach the other stack
    with pytest.raises(StackError):
        check_alone("NEUROSCOPE_HOME", str(home))
    other.kill()
    check_alone("NEUROSCOPE_HOME", str(home))


def test_processes_left_by_a_killed_stack_are_reported(tmp_path, home):
    code = f"""
        import os, pathlib, signal
        from flows.processes import Children
        children = Children(pathlib.Path({str(tmp_path)!r}), dict(os.environ), limit=30)
        print(children.start("mlflow", "-c", {LASTS!r}), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, *python(code)], stdout=subprocess.PIPE, text=True)
    orphan = int(killed.stdout)
    try:
        with pytest.raises(StackError, match=f"kill {orphan}"):
            check_alone("NEUROSCOPE_HOME", str(home))
    finally:
        os.kill(orphan, signal.SIGKILL)


def interruptible_stack(program):
    """Run a stack of one program as a command does; return its process once it is ready."""
    code = f"""
        from flows import stack
        from flows.output import result_stream
        from flows.services import Service
        from flows.signals import interruptible

        stack.check_ports = lambda ports: None
        stack.services = lambda *_: [Service("mlflow", ("-c", {program!r}), lambda: True)]

        @interruptible("")
        def main():
            with stack.Stack() as running:
                log = running._logs / "mlflow.log"
                running._children.wait_until("mlflow", lambda: log.read_text())
                print("ready", file=result_stream(), flush=True)
                running.wait()

        main()
    """
    ignored = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a child inherits what nohup ignores
    process = subprocess.Popen([sys.executable, *python(code)], stdout=subprocess.PIPE)
    signal.signal(signal.SIGHUP, ignored)
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_stack_in_order(number):
    process = interruptible_stack(LASTS)
    (child,) = psutil.Process(process.pid).children()
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert not child.is_running()


def test_a_second_signal_kills_a_child_that_ignores_the_first():
    process = interruptible_stack(STUBBORN)
    (child,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 128 + signal.SIGINT
    assert not child.is_running()


def test_flows_use_both_servers_without_telemetry(monkeypatch, home):
    monkeypatch.setenv("MLFLOW_RUN_ID", "another's")
    monkeypatch.setenv("no_proxy", "example.org")
    variables = stack_environment("http://127.0.0.1:5", "http://127.0.0.1:4")
    assert variables["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5"
    assert variables["PREFECT_API_URL"] == "http://127.0.0.1:4/api"
    assert variables["PREFECT_HOME"] == str(home / "prefect")
    assert variables["NO_PROXY"] == "example.org,127.0.0.1"
    assert variables["MLFLOW_DISABLE_TELEMETRY"] == variables["DO_NOT_TRACK"] == "true"
    assert "MLFLOW_RUN_ID" not in variables


def test_a_prefect_home_of_the_user_is_kept(monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", "/own")
    assert stack_environment("", "")["PREFECT_HOME"] == "/own"


def test_every_deployment_is_complete_and_its_flow_exists():
    project = YAML(typ="safe").load((REPOSITORY / "prefect.yaml").read_text())
    assert project["name"] == "neuroscope"
    assert "compare" in deployment_names(REPOSITORY)
    for deployment in project["deployments"]:
        assert deployment["description"] and deployment["tags"]
        assert deployment["work_pool"]["name"] == WORK_POOL
        file, function = deployment["entrypoint"].split(":")
        tree = ast.parse((REPOSITORY / file).read_text())
        (flow,) = [node for node in tree.body if getattr(node, "name", "") == function]
        (decorator,) = map(ast.unparse, flow.decorator_list)
        assert decorator == "study_form" or decorator.startswith("partial(form_flow, ")


def test_prefect_yaml_contains_no_local_folder():
    project = YAML(typ="safe").load((REPOSITORY / "prefect.yaml").read_text())
    assert "pull" not in project  # Prefect adds the folder it deploys from
    assert str(REPOSITORY) not in (REPOSITORY / "prefect.yaml").read_text()


def test_importing_the_stack_imports_no_heavy_package():
    code = """
        import sys, flows.stack
        print({"prefect", "mlflow", "httpx", "psutil", "yaml"} & set(sys.modules))
    """
    process = subprocess.run([sys.executable, *python(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.strip() == "set()"
