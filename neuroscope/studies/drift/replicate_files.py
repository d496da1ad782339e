"""Benign replicates on disk, beside the base's activations."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import numpy as np

from neuroscope.errors import StoreError
from neuroscope.storage.disk import disk_errors
from neuroscope.storage.manifest import read_manifest
from neuroscope.storage.parts import Part
from neuroscope.storage.statistics import Arrays, read_arrays, write_arrays
from neuroscope.studies.drift.agreement import Distance
from neuroscope.studies.drift.experiment import DriftExperiment
from neuroscope.studies.drift.replicates import Replicates
from neuroscope.studies.drift.rewording import Rewording

_SCHEMA = 2


def replicates_name(experiment: DriftExperiment, distance: Distance, bounding: int) -> str:
    """Return the name of the replicates' file, which stands for all settings that they depend on.

    The number of replicates is not one of them: each is drawn independently of the others, so the
    first ones are the same however many there are.

    Args:
        experiment: experiment of the check.
        distance: distance by which replicates are compared.
        bounding: number of replicates from which bounds on the change of tokens are computed.
    """
    settings = [
        _SCHEMA,
        type(distance).__name__,
        experiment.seed,
        sorted(experiment.benign),
        bounding,
        experiment.studied_label,
    ]
    return f"replicates-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]}"


def read_replicates(folder: Path, name: str) -> Replicates | None:
    """Return the replicates in a folder of activations; None if there are none, or damaged ones."""
    with suppress(StoreError):
        return _replicates(read_arrays(folder, _part(folder, name)))
    return None


def write_replicates(folder: Path, name: str, replicates: Replicates) -> None:
    """Write replicates into the folder of the base's activations, atomically.

    Raises:
        ResourceError, StoreError: the disk is full or fails.
    """
    rewordings = replicates.rewordings
    arrays = {
        "distances": replicates.distances,
        "changes": np.array([rewording.change for rewording in rewordings]),
        "rewordings": np.array([(row.distance, row.changed) for row in rewordings]),
    }
    if replicates.bounds is not None:
        arrays["bounds"] = replicates.bounds
    with disk_errors(folder):
        write_arrays(folder, _part(folder, name), arrays)


def _replicates(arrays: Arrays) -> Replicates:
    rewordings = zip(arrays["changes"].tolist(), arrays["rewordings"].tolist(), strict=True)
    return Replicates(
        arrays["distances"],
        arrays.get("bounds"),
        tuple(Rewording(change, *values) for change, values in rewordings),
    )


def _part(folder: Path, name: str) -> Part:
    """Return the header of the file of replicates."""
    manifest = read_manifest(folder)
    return Part(manifest.key.digest, name, 0, 0, manifest.prompts)
