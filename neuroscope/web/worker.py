"""The worker: one thread that keeps models in memory and works through a queue of requests."""

import asyncio
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from neuroscope.errors import HeadlessError
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.models import Model
from neuroscope.studies.models import find_model, load_model
from neuroscope.studies.probe.probe import probe
from neuroscope.web.jobs import BusyError, Job
from neuroscope.web.settings import Settings

T = TypeVar("T")
Client = Callable[[], Awaitable[bool]]
"""Function that returns whether a client has gone."""
Task = Callable[[Model, Job], T]
"""Work on a model; the job takes its progress and raises Cancelled."""

_POLL = 0.2  # seconds between looks at whether a job is cancelled
_LOOK_AGAIN = 600.0  # seconds after which a model on a server is looked up again


class ModelWorker:
    """Thread that runs tasks on models, one at a time, in the order in which they came.

    >>> worker = ModelWorker(Settings())
    >>> await worker.run("minilm", Job(), lambda model, job: model.layer_count, client=gone)
    6
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._models: OrderedDict[tuple[str, bool], Model] = OrderedDict()
        self._checkpoints: dict[str, tuple[float, Checkpoint]] = {}  # with the time of the look
        self._queue: queue.Queue[tuple[Future[Any], Callable[[], Any]]]
        self._queue = queue.Queue(settings.limits.waiting)
        self._thread = threading.Thread(target=self._work, name="models", daemon=True)
        self._thread.start()

    async def run(
        self, name: str, job: Job, task: Task[T], *, client: Client, head: bool = False
    ) -> T:
        """Run a task on a model and return its result; other requests go first if they came first.

        Waiting takes no thread. A task that has not begun ends at once when it is cancelled.

        Args:
            name: name of the model.
            job: job of the request.
            task: function that gets the model and the job.
            client: function that returns whether the client has gone.
            head: whether the task needs the language-model head, if the model has one.

        Raises:
            BusyError: too many requests wait.
            Cancelled: the client has cancelled the request.
            NeuroscopeError: the task or the model fails.
        """
        future: Future[T] = Future()

        def work() -> T:
            job.check()
            return task(self._model(name, job, head), job)

        try:
            self._queue.put_nowait((future, work))
        except queue.Full:
            waiting = self._settings.limits.waiting
            raise BusyError(
                f"{waiting} requests wait for a model already", remedy="try again in a minute"
            ) from None
        return await _result(future, job, client)

    def warm(self, name: str) -> None:
        """Load a model before it is first asked for; a failure is reported when it is asked for."""
        future: Future[Any] = Future()
        self._queue.put((future, lambda: _read_once(self._model(name, Job(), head=False))))

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return self._queue.qsize()

    @property
    def loaded(self) -> list[str]:
        """Names of the models in memory."""
        return [model.name for model in list(self._models.values())]

    def _work(self) -> None:
        """Run the tasks in the queue."""
        while True:
            future, work = self._queue.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # it belongs to the request, not to this thread
                future.set_exception(error)

    def _model(self, name: str, job: Job, head: bool) -> Model:
        """Return a model, which is loaded unless it is in memory."""
        job("find the model", 0, 1)
        checkpoint = self._found(name)
        key = checkpoint.fingerprint, head and checkpoint.architecture.causal
        if key not in self._models:
            job("load the model", 0, 1)
            while len(self._models) >= self._settings.limits.models:
                self._models.popitem(last=False)  # before the next one takes its memory
            self._models[key] = self._load(checkpoint, head=key[1])
        self._models.move_to_end(key)
        return self._models[key]

    def _found(self, name: str) -> Checkpoint:
        """Return the files of a model; only folders are looked at each time."""
        known = self._checkpoints.get(name)
        if known and time.monotonic() - known[0] < _LOOK_AGAIN:
            return known[1]
        checkpoint = find_model(name)
        if not Path(name).expanduser().exists():
            self._checkpoints[name] = time.monotonic(), checkpoint
        return checkpoint

    def _load(self, checkpoint: Checkpoint, *, head: bool) -> Model:
        load = partial(
            load_model, checkpoint, device=self._settings.device, dtype=self._settings.dtype
        )
        if head:
            with suppress(HeadlessError):
                return load(head=True)
        return load()


async def _result(future: Future[T], job: Job, gone: Client) -> T:
    """Wait for the result of a task, or until its job is cancelled before it begins.

    A client that goes cancels its job.

    Raises:
        Cancelled: the job is cancelled.
    """
    waiting = asyncio.wrap_future(future)
    try:
        while not (await asyncio.wait([waiting], timeout=_POLL))[0]:
            if await gone():
                job.cancelled.set()
            if job.cancelled.is_set() and future.cancel():
                job.check()
        return await waiting
    finally:
        job.cancelled.set()  # whoever waited is gone


def _read_once(model: Model) -> None:
    """Read a prompt, which also computes the reference statistics of the neurons."""
    probe(model, ["warm"])
