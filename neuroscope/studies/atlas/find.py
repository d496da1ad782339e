"""Finding an atlas: a file, an MLflow run, or the latest atlas of a model."""

from pathlib import Path

from neuroscope.errors import StoreError
from neuroscope.files import absolute
from neuroscope.labels import model_label
from neuroscope.reporting.recorded import is_run_id
from neuroscope.reporting.run_reader import RunReader
from neuroscope.storage.atlas_file import Atlas

ATLAS = "atlas.duckdb"
"""Name of the database in a run."""


def open_atlas(name: str | Path = "") -> Atlas:
    """Open an atlas.

    >>> with ns.open_atlas("atlas.duckdb") as atlas:
    ...     atlas.neurons("sport", top=10)

    Args:
        name: path of a file, id of an MLflow run, or name of a model whose latest recorded atlas is
            opened; of a local model, the path or the name of its folder. Empty for the latest
            recorded atlas of any model.

    Raises:
        StoreError: there is no such atlas, or the file is not one.
        TrackingError: MLflow cannot be reached, or the run has no atlas.
    """
    path = absolute(name) if name else None
    if path and (path.is_file() or path.suffix == ".duckdb"):  # not the folder of a model
        return Atlas.open(path)
    return Atlas.open(_recorded(str(name)))


def _recorded(name: str) -> Path:
    """Return the local path of a recorded atlas."""
    tracker = RunReader.connect()
    if is_run_id(name):
        return tracker.artifact(name, ATLAS)
    for run in tracker.find_runs("atlas"):  # the newest first
        model = run.tags.get("neuroscope.model")  # none in an overview, which has no atlas
        if model and (not name or name in (model, model_label(model))):
            return tracker.artifact(run.id, ATLAS)
    whose = f" of '{name}'" if name else ""
    raise StoreError(
        f"no atlas{whose} is recorded in MLflow, and there is no file of this name"
        if name
        else "no atlas is recorded in MLflow",
        remedy="build one with `neuroscope atlas build FILE`, or name the file of one",
    )
