"""Baselines: files with what a check needs of the base, so that its weights need not be present."""

import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from neuroscope.errors import ExperimentError, ModelError
from neuroscope.experiment_faults import about
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.recorded_outputs import RecordedOutputs
from neuroscope.extraction.tensor_digests import TensorDigest, tensor_digests
from neuroscope.files import absolute, atomic_write, stored_once
from neuroscope.home import home
from neuroscope.provenance import library_versions
from neuroscope.storage.disk import disk_errors
from neuroscope.studies.drift.experiment import DriftExperiment
from neuroscope.studies.subjects import Subject

_SCHEMA = 1
_HEADER, _OUTPUTS, _MODEL, _ACTIVATIONS = "baseline.json", "outputs.npz", "model", "activations"
_MEMBERS = (_HEADER, _OUTPUTS, _MODEL, _ACTIVATIONS)
_SETTINGS = ("site", "layers", "pool", "truncate", "dtype", "attention", "seed", "benign", "label")
"""Settings of the experiment with which a baseline is made, and with which it must be used."""


@dataclass(frozen=True)
class BaselineCheckpoint(Checkpoint):
    """Configuration and tokenizer of a base whose weights are not present."""

    recorded_fingerprint: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the files of the base."""
        return self.recorded_fingerprint

    @property
    def pinned_name(self) -> str:
        """Path of the baseline."""
        return str(absolute(self.name))


@dataclass(frozen=True)
class Baseline:
    """Contents of a baseline, unpacked into a folder of the home.

    >>> baseline = open_baseline(Path("news.baseline"))
    >>> baseline.checkpoint.layer_count
    4
    """

    name: str
    """Path of the file, as given."""
    folder: Path
    """Folder with its contents."""

    @cached_property
    def header(self) -> Mapping[str, Any]:
        """Settings and names."""
        header: Mapping[str, Any] = json.loads((self.folder / _HEADER).read_text(encoding="utf-8"))
        return header

    @property
    def label(self) -> str:
        """Display name of the base."""
        return str(self.header["label"])

    @property
    def checkpoint(self) -> Checkpoint:
        """Configuration and tokenizer of the base."""
        return BaselineCheckpoint(
            self.name, self.folder / _MODEL, recorded_fingerprint=self.header["fingerprint"]
        )

    @property
    def activations(self) -> Path:
        """Folder of the base's activations and replicates."""
        return self.folder / _ACTIVATIONS

    @property
    def digests(self) -> dict[str, TensorDigest]:
        """Digests of the base's tensors, by name."""
        rows: Mapping[str, Any] = self.header["tensors"]
        return {
            name: TensorDigest(tuple(shape), dtype, sha256)
            for name, (shape, dtype, sha256) in rows.items()
        }

    @property
    def outputs(self) -> RecordedOutputs:
        """Outputs of the base."""
        with np.load(self.folder / _OUTPUTS, allow_pickle=False) as arrays:
            return RecordedOutputs(**arrays)

    def check(self, experiment: DriftExperiment) -> None:
        """Raise ExperimentError unless an experiment has the prompts and settings of the base's."""
        with about("prompts", "file"):
            if experiment.prompt_set.digest != self.header["prompts"]:
                raise ExperimentError(
                    f"the baseline {self.name} was made with other prompts",
                    remedy="name the same prompts, or make a new baseline",
                )
        settings = _settings(experiment)
        for key, value in self.header["settings"].items():
            if settings[key] != value:
                with about(key):
                    raise ExperimentError(
                        f"the baseline {self.name} was made with {key} {_text(value)}, not"
                        f" {_text(settings[key])}",
                        remedy="use the same setting, or make a new baseline",
                    )


def write_baseline(
    path: Path,
    experiment: DriftExperiment,
    base: Subject,
    stored: Path,
    outputs: RecordedOutputs,
    replicates: int,
    distance: str,
) -> None:
    """Write a baseline, atomically.

    Args:
        path: file to write.
        experiment: experiment of the check.
        base: the base.
        stored: folder of its activations and replicates.
        outputs: its outputs.
        replicates: number of its replicates.
        distance: name of the distance by which they are compared.

    Raises:
        ResourceError, StoreError: the disk is full or fails.
    """
    checkpoint = base.checkpoint
    tensors = tensor_digests(checkpoint)
    header = {
        "schema": _SCHEMA,
        "label": base.label,
        "fingerprint": checkpoint.fingerprint,
        "prompts": experiment.prompt_set.digest,
        "settings": _settings(experiment),
        "replicates": replicates,
        "distance": distance,
        "versions": library_versions(),
        "tensors": {name: [*asdict(digest).values()] for name, digest in tensors.items()},
    }
    # flat, as a checkpoint may keep its tokenizer elsewhere; config.json is that of the model
    members = {f"{_MODEL}/{file.name}": file for file in checkpoint.description_files}
    for file in stored.rglob("*"):
        if file.is_file() and not file.name.startswith("."):
            members[f"{_ACTIVATIONS}/{file.relative_to(stored).as_posix()}"] = file
    with disk_errors(path), atomic_write(path) as target, zipfile.ZipFile(target, "w") as archive:
        archive.writestr(_HEADER, json.dumps(header))
        with archive.open(_OUTPUTS, "w", force_zip64=True) as member:
            np.savez(member, allow_pickle=False, **outputs.arrays())
        for name, file in members.items():
            archive.write(file, name)


def open_baseline(path: Path) -> Baseline:
    """Unpack a baseline into the home, unless it is there already.

    Raises:
        ModelError: the file is not a baseline, is damaged, cannot be read or has another schema.
        ResourceError: the disk is full.
    """
    with _read_errors(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = home() / "baselines" / digest[:32]

    def unpack(target: Path) -> None:
        with _read_errors(path), zipfile.ZipFile(path) as archive:
            _check_header(json.loads(archive.read(_HEADER)))
            archive.getinfo(_OUTPUTS)
            for member in archive.infolist():
                _unpack(archive, member, target)

    with disk_errors(folder):
        return Baseline(str(path), stored_once(folder, unpack))


def _check_header(header: Mapping[str, Any]) -> None:
    """Raise ValueError unless a baseline has the present schema."""
    if header["schema"] != _SCHEMA:
        raise ValueError(f"it has schema {header['schema']}, not {_SCHEMA}")


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Copy a member of the archive into a folder, and verify its checksum."""
    name = PurePosixPath(member.filename)
    if member.flag_bits & 1 or member.is_dir():
        raise ValueError(f"it has a member that is encrypted or a folder, {member.filename!r}")
    if name.is_absolute() or ".." in name.parts or name.parts[0] not in _MEMBERS:
        raise ValueError(f"it has an unknown member {member.filename!r}")
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, path.open("wb") as file:
        shutil.copyfileobj(source, file)


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Translate the errors of a file that is not a baseline, or a damaged one."""
    try:
        yield
    except (zipfile.BadZipFile, LookupError, ValueError, TypeError, EOFError, zlib.error) as error:
        raise ModelError(
            f"{path} is not a baseline, or is damaged ({error})",
            remedy="make it with `neuroscope drift --save-baseline`",
        ) from error
    except PermissionError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror})", remedy="check its permissions"
        ) from error


def _settings(experiment: DriftExperiment) -> dict[str, Any]:
    """Return the settings that a baseline shares with the checks that use it."""
    return {key: getattr(experiment, key) for key in _SETTINGS} | {
        "label": experiment.studied_label
    }


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
