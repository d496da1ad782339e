"""The command `neuroscope drift`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.cli.app import app
from flows.cli.options import (
    MODEL_NAMES,
    AttentionOption,
    ChangesLabel,
    Device,
    DtypeOption,
    Json,
    Layers,
    Margin,
    MemoryOption,
    Name,
    NoRecord,
    Note,
    PromptsOption,
    Seed,
    Site,
    TextColumn,
    Truncate,
)
from flows.cli.study import kept, run_study
from flows.signals import interruptible
from neuroscope.errors import StoreError
from neuroscope.options import Dtype

EXIT_CODES = {"identical": 0, "compatible": 0, "drifted": 1, "inconclusive": 3}
"""Exit code of each verdict."""


@app.command()
@interruptible(kept)
def drift(
    base: Annotated[
        str, typer.Argument(help=f"The old model, or a file from --save-baseline. {MODEL_NAMES}")
    ],
    candidate: Annotated[str, typer.Argument(help="The new model, named in the same way.")],
    prompts: PromptsOption,
    text_column: TextColumn = "text",
    label: ChangesLabel = "",
    site: Site = "mlp_act",
    layers: Layers = "all",
    pool: Annotated[
        Literal["mean", "max", "last", "first"],
        typer.Option(help="Way to pool the tokens of a prompt."),
    ] = "mean",
    margin: Margin = 0.05,
    alpha: Annotated[
        float, typer.Option(help="Rate of false alarms, above 0 and below 0.5.")
    ] = 0.05,
    replicates: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of times the base is compared with itself."
            " [default: 19; more where alpha requires it]",
        ),
    ] = None,
    associations: Annotated[
        Path | None,
        typer.Option(
            help="Experiment file of kind association: name the associations that changed."
        ),
    ] = None,
    seed: Seed = 0,
    name: Name = "",
    note: Note = "",
    truncate: Truncate = False,
    device: Device = "auto",
    dtype: DtypeOption = "float32",
    candidate_dtype: Annotated[
        Dtype | None,
        typer.Option(help="Number format of the candidate. [default: that of the base]"),
    ] = None,
    attention: AttentionOption = "sdpa",
    memory: MemoryOption = "auto",
    no_record: NoRecord = False,
    save_baseline: Annotated[
        Path | None,
        typer.Option(
            help="File for what later checks need of the base, in place of the base itself."
        ),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(help="File for the result as JUnit XML, for CI systems.")
    ] = None,
    json: Json = False,
) -> None:
    """Check whether a new version of a model may replace the old one.

    Exit code 0: identical or compatible; 1: drifted; 3: inconclusive; 2: wrong usage.
    """

    def experiment() -> Any:
        from neuroscope.studies.drift.experiment import drift_experiment

        return drift_experiment(
            base,
            candidate,
            {"file": str(prompts), "text_column": text_column},
            name=name,
            label=label,
            site=site,
            layers=layers,
            pool=pool,
            margin=margin,
            alpha=alpha,
            replicates=replicates,
            associations="" if associations is None else str(associations),
            seed=seed,
            note=note,
            truncate=truncate,
            device=device,
            dtype=dtype,
            candidate_dtype=candidate_dtype,
            attention=attention,
            memory=memory,
        )

    for file in (junit, save_baseline):
        _check_folder(file)
    after = None if save_baseline is None else partial(_save_baseline, save_baseline)
    results = run_study(
        "drift", experiment, record=not no_record, json=json, single=True, after=after
    )
    if junit is not None:
        _write_junit(junit, results[0])
    if code := EXIT_CODES[results[0].decision.verdict]:
        raise typer.Exit(code)


def _write_junit(path: Path, result: Any) -> None:
    """Write the result as JUnit XML, atomically."""
    from neuroscope.files import absolute, atomic_write
    from neuroscope.studies.drift.junit import junit_xml

    path = absolute(path)
    try:
        with atomic_write(path) as file:
            file.write(junit_xml(result).encode())
    except OSError as error:
        raise StoreError(f"cannot write {path} ({error.strerror})") from error


def _save_baseline(path: Path, experiment: Any, executor: Any, progress: Any) -> None:
    """Save what later checks need of the base, which the check has left in the store."""
    from neuroscope.files import absolute
    from neuroscope.studies.drift.study import save_baseline

    save_baseline(experiment, absolute(path), executor, progress)


def _check_folder(path: Path | None) -> None:
    """Raise StoreError unless the folder of a file exists, before any work is done."""
    from neuroscope.files import absolute

    if path is not None and not absolute(path).parent.is_dir():
        raise StoreError(
            f"the folder of {absolute(path)} does not exist", remedy="create it, or name another"
        )
