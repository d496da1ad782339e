"""Atlases that the server has open, and the list of those that are recorded."""

import threading
from collections import OrderedDict

from pydantic import BaseModel, Field

from neuroscope.reporting.logged_models import FINGERPRINT_TAG
from neuroscope.reporting.run_reader import RunReader
from neuroscope.storage.atlas_file import Atlas
from neuroscope.studies.atlas.find import open_atlas
from neuroscope.web.recorded import check_recorded

_MOST_OPEN = 4


class AtlasItem(BaseModel):
    """Atlas that is recorded in MLflow."""

    run_id: str
    name: str
    model: str
    fingerprint: str = Field(description="SHA-256 of the model's files.")
    started: str = Field(description="ISO 8601, UTC.")
    address: str = Field(description="Page of the run in MLflow; empty if no server shows it.")


def recorded_atlases(reader: RunReader) -> list[AtlasItem]:
    """Return the atlases that are recorded, newest first.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    return [
        AtlasItem(
            run_id=run.id,
            name=run.name,
            model=run.tags["neuroscope.model"],
            fingerprint=run.tags.get(FINGERPRINT_TAG, ""),
            started=run.started.isoformat(timespec="seconds"),
            address=reader.page_of(run),
        )
        for run in reader.find_runs("atlas")
        if "neuroscope.model" in run.tags  # an overview of several models has no atlas
    ]


class Atlases:
    """Recorded atlases by the id of their run, opened when they are first asked for."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Atlas] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, run_id: str) -> Atlas:
        """Return an open atlas, which threads may share.

        Raises:
            GoneError: the run is not an atlas.
            TrackingError, StoreError: as in `open_atlas`.
        """
        with self._lock:
            if run_id in self._open:
                self._open.move_to_end(run_id)
                return self._open[run_id]
        check_recorded("atlas", run_id)  # a path is not opened: clients name runs only
        atlas = open_atlas(run_id)  # may download it, while other requests go on
        with self._lock:
            self._open.setdefault(run_id, atlas)
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)  # closed when no request uses it any more
            return self._open[run_id]
