"""Work that a request waits for: how far it is, and whether its client has cancelled it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from neuroscope.errors import NeuroscopeError


class BusyError(NeuroscopeError):
    """Error about a request that cannot wait, as too many others do."""


class Cancelled(NeuroscopeError):
    """Error in work that its client has cancelled."""


@dataclass
class Job:
    """Work in progress; it is also the callback that work reports its progress to."""

    stage: str = "waiting"
    """What is being done."""
    done: int = 0
    total: int = 1
    cancelled: threading.Event = field(default_factory=threading.Event)

    def __call__(self, task: str, done: int, total: int) -> None:
        """Take a report of progress.

        Raises:
            Cancelled: the client has cancelled the work.
        """
        self.stage, self.done, self.total = task, done, total
        self.check()

    def check(self) -> None:
        """Raise Cancelled if the client has cancelled the work."""
        if self.cancelled.is_set():
            raise Cancelled("the request was cancelled", remedy="send it again")


class Jobs:
    """Work in progress by the id that its client has chosen."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    @contextmanager
    def job(self, id: str | None) -> Iterator[Job]:
        """Yield a new job, which can be found by its id for as long as the block lasts.

        Raises:
            NeuroscopeError: another job has this id.
        """
        job = Job()
        if id is None:
            yield job
            return
        with self._lock:
            if id in self._jobs:
                raise NeuroscopeError("another request has this job id", remedy="choose another")
            self._jobs[id] = job
        try:
            yield job
        finally:
            with self._lock:
                del self._jobs[id]

    def find(self, id: str) -> Job | None:
        """Return a job in progress, or None."""
        return self._jobs.get(id)
