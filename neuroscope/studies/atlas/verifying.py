"""Storing the verdicts of ablation: a verified copy of an atlas, and its run in MLflow."""

import datetime
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from neuroscope.errors import NeuroscopeError, TrackingError
from neuroscope.extraction.models import Model
from neuroscope.home import create_home
from neuroscope.labels import model_label
from neuroscope.provenance import library_versions
from neuroscope.reporting.logged_models import FINGERPRINT_TAG
from neuroscope.reporting.run_reader import PROMPTS_TAG, REPORT
from neuroscope.reporting.tracking import Tracker
from neuroscope.storage.atlas_file import Atlas
from neuroscope.storage.atlas_verifying import check_target, verified_copy
from neuroscope.studies.atlas.ablation import ablate
from neuroscope.studies.atlas.ablation_result import AblationResult, ablation_table
from neuroscope.studies.atlas.find import ATLAS
from neuroscope.studies.model_runs import run_files
from neuroscope.studies.run_folder import RunFolder

_log = logging.getLogger("neuroscope")


def verify(
    atlas: Atlas,
    model: Model | str = "",
    *,
    out: str | Path = "",
    record: bool = True,
    unsaved: Callable[[AblationResult], object] | None = None,
    **settings: Any,
) -> tuple[AblationResult, Path]:
    """Test neurons by ablation; write a copy of the atlas with the verdicts.

    Args:
        atlas: open atlas.
        model: loaded model, or its name; by default the name in the atlas.
        out: file to write, which must not exist. By default the copy is in the home folder, and is
            recorded in MLflow as the latest atlas of its model.
        record: whether to record a copy in the home folder; if MLflow cannot be reached, a warning
            is logged instead.
        unsaved: callback that receives the effects if the copy cannot be written after the test.
        settings: other arguments of `ablate`.

    Returns:
        The effects, and the path of the copy.

    Raises:
        StoreError: the file exists or cannot be written.
        ResourceError: the disk is full.
        ExperimentError, ModelError, NonfiniteError: as `ablate`.
    """
    if out:
        check_target(out)  # before the passes
    result = ablate(atlas, model, **settings)
    path = out or _path_in_home(atlas)
    try:
        copy = verified_copy(atlas.path, path, result.verifications(), result.note())
    except NeuroscopeError:
        if unsaved:
            unsaved(result)
        raise
    if record and not out:
        try:
            _record(copy, atlas.path, result, Tracker.open())
        except TrackingError as error:
            _log.warning("the atlas is not recorded in MLflow: %s", error)
    return result, copy


def _path_in_home(atlas: Atlas) -> Path:
    """Return a path in the home folder, named after the atlas and the time."""
    now = datetime.datetime.now(datetime.UTC)
    return create_home("atlas", "verified") / f"{atlas.path.stem}-{now:%Y%m%d-%H%M%S-%f}.duckdb"


def _record(path: Path, source: Path, result: AblationResult, tracker: Tracker) -> None:
    """Record a verified copy of an atlas in a run of its own, under the model's name."""
    with Atlas.open(path) as verified:
        settings = verified.model()
    models = json.loads(settings["experiment"]).get("models", [])
    model = models[0] if len(models) == 1 else settings["name"]
    tags = {
        "neuroscope.model": model,
        FINGERPRINT_TAG: settings["fingerprint"],
        PROMPTS_TAG: settings["prompts_digest"],
    }
    first, now = result.rows[0], datetime.datetime.now()
    name = f"{model_label(model)} {now:%m-%d %H:%M} ablation of {result.tested}"
    with tracker.run("atlas", name, tags=tags) as run:
        run.log_params(
            {
                "model_name": model,
                "neurons": ", ".join(dict.fromkeys(row.neuron for row in result.rows)),
                "topics": ", ".join(dict.fromkeys(row.topic for row in result.rows)),
                **{name: getattr(first, name) for name in ("mode", "measure", "controls")},
                "atlas": str(source),
                "atlas_created": settings["created"],
            }
        )
        with run_files(run) as folder:
            _write_outputs(RunFolder(folder), path, result, settings, run.links)
        run.describe(result.headline, REPORT)


def _write_outputs(
    folder: RunFolder,
    path: Path,
    result: AblationResult,
    settings: Mapping[str, Any],
    links: Mapping[str, str],
) -> None:
    """Write the effects, the report and the verified atlas.

    Args:
        folder: folder that receives the files.
        path: verified atlas.
        result: effects of the neurons.
        settings: `Atlas.model()` of the atlas.
        links: name -> address of the links in the report.
    """
    folder.table("ablation", result.rows)
    shutil.copy(path, folder.path / ATLAS)
    folder.report(
        ("neuroscope.studies.atlas", "ablation.html.j2"),
        f"{settings['name']}: neurons silenced",
        headline=result.headline,
        provenance={
            "model": f"{settings['name']} (SHA-256 {settings['fingerprint']})",
            "prompts": f"{settings['prompts']:,} (digest {settings['prompts_digest']})",
            "dtype": settings["dtype"],
            "attention": settings["attention"],
            "versions": library_versions(),
            "atlas": f"created {settings['created']}",
        },
        links=links,
        component=settings["component"],
        effects=ablation_table(result),
    )
