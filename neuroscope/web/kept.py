"""Probes that the server keeps in memory, so that a browser can ask for their parts."""

import secrets
import threading
from collections import OrderedDict

from neuroscope.errors import NeuroscopeError
from neuroscope.studies.probe.probe import Probe


class GoneError(NeuroscopeError):
    """Error about something that the server does not have, or has no longer."""


class KeptProbes:
    """Probes by an id that nobody can guess; the one unused for longest goes first.

    >>> kept = KeptProbes(most_bytes=2**30)
    >>> kept[kept.add(probe)] is probe
    True
    """

    def __init__(self, most_bytes: int):
        self._most = most_bytes
        self._probes: OrderedDict[str, Probe] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, probe: Probe) -> str:
        """Keep a probe and return its id; the newest is kept whatever its size."""
        id = secrets.token_urlsafe(16)
        with self._lock:
            self._probes[id] = probe
            while self._bytes() > self._most and len(self._probes) > 1:
                self._probes.popitem(last=False)
        return id

    def __getitem__(self, id: str) -> Probe:
        """Return a probe; raise GoneError if it is not kept any more."""
        with self._lock:
            if id not in self._probes:
                raise GoneError(
                    "this probe is not in memory any more", remedy="send its prompts again"
                )
            self._probes.move_to_end(id)
            return self._probes[id]

    def _bytes(self) -> int:
        return sum(probe.nbytes for probe in self._probes.values())
