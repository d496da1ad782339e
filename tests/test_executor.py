"""Who runs the steps: Prefect's tasks, in a real flow against a real server."""

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.executor import PrefectExecutor, SecondProcessExecutor
from neuroscope.errors import PromptError
from neuroscope.studies.steps import Step


@pytest.fixture(scope="module")
def prefect():
    with prefect_test_harness(server_startup_timeout=120):
        yield


def in_a_flow(function, name="add {2}"):
    """Runs one step in a flow; gives its result, or the error it raised."""

    @flow
    def run():
        return PrefectExecutor().submit(Step(name, function, ([1, 2],))).result()

    return run()


def test_a_step_becomes_a_task_run_of_its_name(prefect):
    assert in_a_flow(sum) == 3
    with get_client(sync_client=True) as client:
        (found,) = [one for one in client.read_task_runs() if one.name == "add {2}"]
    assert found.state.is_completed()


def test_a_step_that_fails_is_tried_once_more(prefect):
    tries = []

    def fails_first(values):
        tries.append(values)
        if len(tries) == 1:
            raise OSError("passing trouble")
        return sum(values)

    assert in_a_flow(fails_first) == 3
    assert len(tries) == 2


def test_a_fault_of_the_users_is_not_tried_again(prefect):
    tries = []

    def refuses(values):
        tries.append(values)
        raise PromptError("too long: shorten it")

    with pytest.raises(PromptError, match="shorten it"):
        in_a_flow(refuses)
    assert len(tries) == 1


def process_id(_):
    import os

    return os.getpid()


def test_steps_that_load_a_model_run_in_a_second_process_that_ends_with_it():
    import os

    import psutil

    with SecondProcessExecutor() as executor:
        other = executor.submit(Step("extract", process_id, (0,), loads_model=True)).result(120)
        assert other != os.getpid()
        assert executor.submit(Step("compare", process_id, (0,))).result() == os.getpid()
        second = psutil.Process(other)
    second.wait(30)
