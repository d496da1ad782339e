"""The command line: turns arguments into one call; heavy imports wait until they are needed."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.environment import check_prefect, prepare_environment
from flows.signals import deferred, interruptible, watched
from flows.startup import quick_exit
from neuroscope.errors import NeuroscopeError

_RUNS_CLOSED = "unfinished MLflow runs are marked as killed"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Shows what the neurons of transformer language models do.",
)

Model = Annotated[
    str, typer.Option(help="Built-in name (minilm), folder, or hub id (id@revision).")
]
Layers = Annotated[
    str,
    typer.Option(help="all, 3, 0-5, 2,4 or -1 (the last), from 0; of sites named without one."),
]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut prompts at the model's limit.")]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cpu:4 (threads), cuda, cuda:1, mps, or all (every GPU).")
]
Dtype = Annotated[
    str, typer.Option(help="auto (bfloat16 where it is fast), float32, bfloat16 or float16.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.command()
@interruptible(_RUNS_CLOSED)
def compare(
    prompts: Annotated[list[str] | None, typer.Argument(help="Two prompts or more.")] = None,
    template: Annotated[
        str, typer.Option(help="Text with {} where the fills go, instead of prompts.")
    ] = "",
    fill: Annotated[list[str] | None, typer.Option(help="A word for {}; repeat.")] = None,
    model: Model = "minilm",
    site: Annotated[
        str, typer.Option(help="resid_pre, attn_out, mlp_act, mlp_out or resid_post.")
    ] = "resid_post",
    layers: Layers = "all",
    plot_layers: Annotated[
        str, typer.Option(help="Layers drawn neuron by neuron: middle, or as --layers.")
    ] = "middle",
    note: Annotated[str, typer.Option(help="Becomes the MLflow run's description.")] = "",
    truncate: Truncate = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Compare prompts with each other, at every layer of a model."""
    from flows.startup import quick_start

    group: dict[str, Any] = {"texts": prompts or [], "template": template, "fills": fill or []}
    with quick_start() as executor:
        from neuroscope.experiment import compare_experiment

        experiment = compare_experiment(
            model,
            group,
            site=site,
            layers=layers,
            plot_layers=plot_layers,
            note=note,
            truncate=truncate,
            device=device,
            dtype=dtype,
        )
        from flows.display import progress_bar

        with progress_bar() as progress:
            progress("starting", 0, 1)
            from neuroscope.reporting.tracking import Tracker
            from neuroscope.studies.compare import run_comparison

            with deferred():
                tracker = Tracker.open()
                found = run_comparison(experiment, tracker, executor, progress=watched(progress))
    _show(experiment, found, tracker, json=json)


@app.command()
@interruptible("the finished parts are stored; run the same command again to resume")
def extract(
    file: Annotated[Path, typer.Argument(help="Prompts: .txt, .csv, .jsonl or .parquet.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the Parquet files. [default: the store]")
    ] = None,
    model: Model = "minilm",
    site: Annotated[
        list[str] | None, typer.Option(help="Component or site; repeat. [default: resid_post]")
    ] = None,
    layers: Layers = "all",
    pool: Annotated[
        str, typer.Option(help="mean, max, last, first; none keeps every token.")
    ] = "mean",
    token_rule: Annotated[
        str, typer.Option(help="content (without special tokens) or all.")
    ] = "content",
    truncate: Truncate = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention: Annotated[str, typer.Option(help="sdpa or eager.")] = "sdpa",
    memory: Annotated[
        str,
        typer.Option(help="resident, stream (weights stay on disk) or auto (stream if need be)."),
    ] = "auto",
    budget: Annotated[
        int | None,
        typer.Option(help="Tokens a batch. [default: the device's usual]"),
    ] = None,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Keep and count NaN and infinity.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the activations of a file of prompts as Parquet, or go on where it was cut short."""
    import time

    from flows.display import extraction_bar, show_extraction, show_log
    from neuroscope.activations import check_pooling
    from neuroscope.extraction.checkpoints import find_checkpoint
    from neuroscope.prompt_files import PromptFile
    from neuroscope.sites import resolve_sites

    started = time.perf_counter()
    checkpoint = find_checkpoint(model)
    sites = resolve_sites(site or ["resid_post"], layers, checkpoint.layer_count)
    check_pooling(pool, token_rule)
    with show_log(), extraction_bar() as progress:
        prompts = PromptFile.open(file)
        progress("load the model", 0, len(prompts))
        from neuroscope.extraction.hardware import resolve_device, resolve_dtype
        from neuroscope.extraction.models import load_model
        from neuroscope.storage.activation_store import store_folder
        from neuroscope.studies.store.plan import ExtractionSpec
        from neuroscope.studies.store.store import store_activations

        device = resolve_device(device)
        dtype = resolve_dtype(dtype, device)
        wanted = ExtractionSpec(
            checkpoint, prompts, tuple(sites), pool, token_rule, truncate, dtype, attention
        )
        stored = store_activations(
            wanted,
            out or store_folder(wanted.key),
            lambda: load_model(
                checkpoint, device=device, dtype=dtype, attention=attention, memory=memory
            ),
            budget=budget,
            allow_nonfinite=allow_nonfinite,
            progress=watched(progress),
        )
    show_extraction(stored, time.perf_counter() - started, json=json)


@app.command()
@interruptible(_RUNS_CLOSED)
def run(
    file: Annotated[Path, typer.Argument(help="Experiment, such as experiments/engineer.yaml.")],
    json: Json = False,
) -> None:
    """Run an experiment from a file, as a Prefect flow."""
    from neuroscope.experiment import load_experiment
    from neuroscope.reporting.tracking import Tracker
    from neuroscope.reporting.tracking_server import check_tracking

    experiment = load_experiment(file)
    check_prefect()
    check_tracking()
    from neuroscope.studies.compare import plan_models

    plan_models(experiment)  # what does not exist is said before Prefect starts
    from flows.display import progress_bar

    with progress_bar() as progress:
        progress("start Prefect", 0, 1)
        from flows.compare import run_as_flow

        found = run_as_flow(experiment, watched(progress))
    _show(experiment, found, Tracker.open(), json=json)


@app.command()
@interruptible("everything was stopped")
def up(
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
) -> None:
    """Start MLflow, Prefect and a worker on this machine, until Ctrl-C."""
    from flows.display import errors, show_addresses
    from flows.stack import up as run_stack

    def say(message: str) -> None:
        errors.print(f"{message} …", highlight=False)

    ports = {"mlflow": mlflow_port, "prefect": prefect_port}
    run_stack(ports, on_ready=show_addresses, say=say)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version

    print(version("neuroscope"))


def _show(experiment: Any, found: Any, tracker: Any, *, json: bool) -> None:
    """Prints comparisons and how to open them: as JSON, or as tables."""
    from flows.display import comparison_document, output, print_json, show_comparison
    from neuroscope.studies.compare_outputs import focus_layers

    if json:
        documents = [comparison_document(one) for one in found]
        print_json(documents[0] if len(documents) == 1 else {"comparisons": documents})
        return
    for one in found:
        show_comparison(one, focus_layers(experiment, one.layers))
    lines = ["", "To see it in MLflow:"]
    if command := tracker.serving_command():
        lines += [f"  {command}", "and then open"]
    lines += [f"  {tracker.address(one.run_id)}" for one in found]
    output.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)


def main() -> None:
    """Runs the command line; a fault that the user can mend ends with exit code 2."""
    quick_exit()
    try:
        prepare_environment()
        app()
    except NeuroscopeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
