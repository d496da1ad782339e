"""Executors that run the steps of a study."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from neuroscope.progress import silent
from neuroscope.studies.steps import InlineExecutor, Pending, Step, Steps


@pytest.fixture
def reports():
    return []


@pytest.fixture
def steps(reports):
    return Steps(InlineExecutor(), lambda *report: reports.append(report), total=2)


class Recording(InlineExecutor):
    """Executor that keeps the submitted steps."""

    def __init__(self):
        self.submitted = []

    def submit(self, fn, /, *args, **kwargs):
        self.submitted.append(fn)
        return super().submit(fn, *args, **kwargs)


def refuse(reason):
    raise LookupError(reason)


def test_a_step_calls_its_function_and_can_be_pickled():
    step = Step("add", sum, ([1, 2],))
    assert step() == 3
    assert pickle.loads(pickle.dumps(step)) == step  # it may run in another process
    assert not step.loads_model


def test_the_inline_executor_runs_a_step_immediately():
    done = []
    future = InlineExecutor().submit(done.append, 1)
    assert done == [1] and future.done() and future.result() is None
    assert InlineExecutor().submit(dict, a=1).result() == {"a": 1}


def test_the_inline_executor_is_an_executor():
    with InlineExecutor() as executor:
        assert list(executor.map(pow, [2, 3], [3, 2])) == [8, 9]


def test_an_error_is_raised_when_its_result_is_requested():
    future = InlineExecutor().submit(refuse, "no such word")
    assert isinstance(future.exception(), LookupError)
    with pytest.raises(LookupError, match="no such word"):
        future.result()


def test_an_interrupt_is_raised_immediately():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        InlineExecutor().submit(interrupted)


def test_steps_give_results_and_report_how_many_are_done(steps, reports):
    first, second = steps.submit("add", sum, [1, 2]), steps.submit("power", pow, 2, 5)
    assert isinstance(first, Pending) and first.name == "add"
    assert (steps.wait(second), steps.wait(first)) == (32, 3)
    assert reports == [
        ("add", 0, 2),
        ("power", 0, 2),
        ("power", 0, 2),
        ("power", 1, 2),
        ("add", 1, 2),
        ("add", 2, 2),
    ]


def test_a_step_that_fails_raises_when_waited_for_and_is_not_done(steps, reports):
    failing, working = steps.submit("fail", refuse, "x"), steps.submit("add", sum, [1])
    with pytest.raises(LookupError, match="x"):
        steps.wait(failing)
    assert steps.wait(working) == 1
    assert reports[-1] == ("add", 1, 2)


def test_an_executor_receives_steps_with_their_names_and_needs():
    executor = Recording()
    steps = Steps(executor, total=2)
    steps.submit("extract tiny", max, 3, 4, loads_model=True)
    steps.submit("report tiny", min, 3, 4)
    assert executor.submitted == [
        Step("extract tiny", max, (3, 4), loads_model=True),
        Step("report tiny", min, (3, 4)),
    ]


def test_results_are_in_the_order_waited_for_with_any_executor():
    def late(value, seconds):
        time.sleep(seconds)
        return value

    with ThreadPoolExecutor(4) as executor:
        steps = Steps(executor, total=4)
        pending = [steps.submit(str(n), late, n, 0.04 - n / 100) for n in range(4)]
        assert [steps.wait(step) for step in pending] == [0, 1, 2, 3]


def test_a_pending_step_accepts_any_future_with_a_result():
    class OtherFuture:
        def result(self):
            return "done"

    assert Steps(InlineExecutor(), silent, total=1).wait(Pending("far", OtherFuture())) == "done"
