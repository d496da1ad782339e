"""Who runs the steps of a study."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from neuroscope.progress import silent
from neuroscope.studies.steps import InlineExecutor, Pending, Step, Steps


@pytest.fixture
def told():
    return []


@pytest.fixture
def steps(told):
    return Steps(InlineExecutor(), lambda *said: told.append(said), total=2)


class Recording(InlineExecutor):
    """Keeps what it is given."""

    def __init__(self):
        self.given = []

    def submit(self, fn, /, *args, **kwargs):
        self.given.append(fn)
        return super().submit(fn, *args, **kwargs)


def refuse(reason):
    raise LookupError(reason)


def test_a_step_is_its_call():
    step = Step("add", sum, ([1, 2],))
    assert step() == 3
    assert pickle.loads(pickle.dumps(step)) == step  # it may go to another process
    assert not step.loads_model


def test_the_inline_executor_runs_at_once_and_in_this_thread():
    done = []
    future = InlineExecutor().submit(done.append, 1)
    assert done == [1] and future.done() and future.result() is None
    assert InlineExecutor().submit(dict, a=1).result() == {"a": 1}


def test_the_inline_executor_is_an_executor():
    with InlineExecutor() as executor:
        assert list(executor.map(pow, [2, 3], [3, 2])) == [8, 9]


def test_an_error_stays_in_its_future_until_it_is_asked_for():
    future = InlineExecutor().submit(refuse, "no such word")
    assert isinstance(future.exception(), LookupError)
    with pytest.raises(LookupError, match="no such word"):
        future.result()


def test_an_interrupt_stops_at_once():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        InlineExecutor().submit(interrupted)


def test_steps_give_results_and_tell_how_many_are_done(steps, told):
    first, second = steps.submit("add", sum, [1, 2]), steps.submit("power", pow, 2, 5)
    assert isinstance(first, Pending) and first.name == "add"
    assert (steps.wait(second), steps.wait(first)) == (32, 3)
    assert told == [
        ("add", 0, 2),
        ("power", 0, 2),
        ("power", 0, 2),
        ("power", 1, 2),
        ("add", 1, 2),
        ("add", 2, 2),
    ]


def test_a_step_that_fails_raises_when_waited_for_and_is_not_done(steps, told):
    failing, working = steps.submit("fail", refuse, "x"), steps.submit("add", sum, [1])
    with pytest.raises(LookupError, match="x"):
        steps.wait(failing)
    assert steps.wait(working) == 1
    assert told[-1] == ("add", 1, 2)


def test_an_executor_is_given_steps_with_their_names_and_needs():
    executor = Recording()
    steps = Steps(executor, total=2)
    steps.submit("extract tiny", max, 3, 4, loads_model=True)
    steps.submit("report tiny", min, 3, 4)
    assert executor.given == [
        Step("extract tiny", max, (3, 4), loads_model=True),
        Step("report tiny", min, (3, 4)),
    ]


def test_results_come_in_the_order_waited_for_whoever_runs_the_steps():
    def late(value, seconds):
        time.sleep(seconds)
        return value

    with ThreadPoolExecutor(4) as executor:
        steps = Steps(executor, total=4)
        pending = [steps.submit(str(n), late, n, 0.04 - n / 100) for n in range(4)]
        assert [steps.wait(one) for one in pending] == [0, 1, 2, 3]


def test_an_orchestrators_future_serves_as_well():
    class Elsewhere:
        def result(self):
            return "done"

    assert Steps(InlineExecutor(), silent, total=1).wait(Pending("far", Elsewhere())) == "done"
