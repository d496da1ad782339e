"""The command `neuroscope extract`."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import app
from flows.cli.options import (
    AttentionOption,
    Device,
    DtypeOrAuto,
    Json,
    Layers,
    MemoryOption,
    ModelName,
    PromptsFile,
    TextColumn,
    Truncate,
    completed,
)
from flows.signals import interruptible, watched
from neuroscope.files import absolute
from neuroscope.labels import counted
from neuroscope.options import Pool, TokenRule
from neuroscope.sites import COMPONENTS

_folders: list[Path] = []  # folder to which this process writes, as soon as it is known


def kept() -> str:
    """Return what remains of an extraction that was interrupted in this process."""
    prompts = 0
    with contextlib.suppress(BaseException):  # a second signal, or an import that was interrupted
        from neuroscope.storage.writing import stored_prompts

        prompts = sum(map(stored_prompts, _folders))
    if not prompts:
        return "no part was finished; run the same command again to start over"
    stored = f"the finished parts are stored ({counted(prompts, 'prompt')})"
    return f"{stored}; run the same command again to resume"


@app.command()
@interruptible(kept)
def extract(
    file: PromptsFile,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the Parquet files. [default: in the store]")
    ] = None,
    model: ModelName = "minilm",
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="Site to read, such as mlp_act.3 or logits. Repeatable. [default: resid_post]",
            autocompletion=completed(*COMPONENTS),
        ),
    ] = None,
    layers: Layers = "all",
    pool: Annotated[
        Pool,
        typer.Option(help="Pooling of tokens into one row per prompt; none keeps every token."),
    ] = "mean",
    token_rule: Annotated[
        TokenRule, typer.Option(help="Tokens that are read; content leaves out special tokens.")
    ] = "content",
    text_column: TextColumn = "text",
    truncate: Truncate = False,
    device: Device = "auto",
    dtype: DtypeOrAuto = "auto",
    attention: AttentionOption = "sdpa",
    memory: MemoryOption = "auto",
    budget: Annotated[
        int | None, typer.Option(help="Tokens per batch. [default: depends on the device]")
    ] = None,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Store and count NaN and infinity.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the activations of a prompt file as Parquet; resume an interrupted extraction."""
    import time

    from flows.display import show_extraction, show_log
    from flows.progress_bars import extraction_bar
    from neuroscope.prompt_files import PromptFile
    from neuroscope.sites import resolve_sites
    from neuroscope.studies.models import find_model

    started = time.perf_counter()
    checkpoint = find_model(model)
    sites = resolve_sites(site or ["resid_post"], layers, checkpoint.layer_count)
    with show_log(), extraction_bar() as progress:
        prompts = PromptFile.open(file, text_column=text_column)
        progress("load the model", 0, len(prompts))
        from neuroscope.extraction.hardware import resolve_device, resolve_dtype
        from neuroscope.extraction.models import load_model
        from neuroscope.storage.activation_store import store_folder
        from neuroscope.studies.store.spec import ExtractionSpec
        from neuroscope.studies.store.store import store_activations

        resolved_dtype = resolve_dtype(dtype, resolve_device(device))
        spec = ExtractionSpec(
            checkpoint=checkpoint,
            prompts=prompts,
            sites=tuple(sites),
            pool=pool,
            token_rule=token_rule,
            truncate=truncate,
            dtype=resolved_dtype,
            attention=attention,
        )
        folder = absolute(out or store_folder(spec.key))
        _folders[:] = [folder]
        stored = store_activations(
            spec,
            folder,
            lambda: load_model(
                checkpoint,
                device=device,
                dtype=resolved_dtype,
                attention=attention,
                memory=memory,
                head=any(site.needs_head for site in sites),
            ),
            budget=budget,
            allow_nonfinite=allow_nonfinite,
            progress=watched(progress),
        )
    show_extraction(stored, time.perf_counter() - started, json=json)
