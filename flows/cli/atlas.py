"""The commands `neuroscope atlas …`: build a database of neurons, and query it."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.app import Group, app
from flows.cli.options import (
    AttentionOption,
    Device,
    DtypeOption,
    Json,
    Layers,
    MemoryOption,
    ModelNames,
    Name,
    NoRecord,
    Note,
    PromptsFile,
    Seed,
    Site,
    TextColumn,
    Truncate,
)
from flows.cli.study import kept, run_study
from flows.signals import interruptible

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from neuroscope.reporting.tables import Table
    from neuroscope.storage.atlas_file import Atlas

atlas = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Build and query a database of neurons and the topics they respond to.",
)
app.add_typer(atlas, name="atlas")

AtlasOption = Annotated[
    str,
    typer.Option(
        "--atlas",
        help="File, id of an MLflow run, or model whose latest atlas is read. [default: the latest"
        " atlas recorded in MLflow]",
    ),
]
Top = Annotated[int, typer.Option(min=1, help="Maximum number of rows.")]


@atlas.command()
@interruptible(kept)
def build(
    file: PromptsFile,
    text_column: TextColumn = "text",
    prompt_template: Annotated[
        str, typer.Option(help="Template for each prompt, with one {} in it. [default: none]")
    ] = "",
    topic: Annotated[
        str, typer.Option("--topic-column", help="Column of the file that contains the topics.")
    ] = "topic",
    separator: Annotated[
        str, typer.Option(help="Separator between the topics of a prompt, such as ';'.")
    ] = "",
    source: Annotated[
        str,
        typer.Option("--source-column", help="Column of the source. [default: source, if any]"),
    ] = "",
    split: Annotated[
        Literal["auto", "prompt", "source"],
        typer.Option(help="Unit of the split into selection and held-out half."),
    ] = "auto",
    least_prompts: Annotated[
        int, typer.Option(min=4, help="Minimum number of prompts per topic.")
    ] = 20,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Leave out topics with too few prompts.")
    ] = False,
    models: ModelNames = ["minilm"],  # noqa: B006 - never modified
    site: Site = "mlp_act",
    layers: Layers = "all",
    pool: Annotated[
        Literal["mean", "max"], typer.Option(help="Way to pool the tokens of a prompt.")
    ] = "mean",
    min_auroc: Annotated[float, typer.Option(help="Smallest AUROC of a selective neuron.")] = 0.75,
    min_lift: Annotated[
        float, typer.Option(help="Smallest average precision, as a multiple of the topic's share.")
    ] = 2,
    min_one_vs_one: Annotated[
        float, typer.Option(help="Smallest AUROC against any single other topic.")
    ] = 0.65,
    max_q: Annotated[float, typer.Option(help="Upper limit of the q-value, exclusive.")] = 0.05,
    shards: Annotated[
        int, typer.Option(min=1, help="Number of tasks among which the prompts are divided.")
    ] = 1,
    pilot: Annotated[
        int, typer.Option(min=100, help="Number of prompts from which bins are estimated.")
    ] = 2048,
    examples: Annotated[
        int, typer.Option(min=1, max=100, help="Number of strongest and of weakest prompts.")
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and of samples.")] = 0,
    name: Name = "",
    note: Note = "",
    truncate: Truncate = False,
    device: Device = "auto",
    dtype: DtypeOption = "float32",
    attention: AttentionOption = "sdpa",
    memory: MemoryOption = "auto",
    no_record: NoRecord = False,
    json: Json = False,
) -> None:
    """Build an atlas: which neurons respond to which topics, over any number of prompts."""

    def experiment() -> Any:
        from neuroscope.studies.atlas.experiment import atlas_experiment

        return atlas_experiment(
            name,
            models,
            {"file": str(file), "text_column": text_column},
            prompt_template=prompt_template,
            topic=topic,
            separator=separator,
            source=source,
            split=split,
            least_prompts=least_prompts,
            leave_out=leave_out,
            site=site,
            layers=layers,
            pool=pool,
            min_auroc=min_auroc,
            min_lift=min_lift,
            min_one_vs_one=min_one_vs_one,
            max_q=max_q,
            shards=shards,
            pilot=pilot,
            examples=examples,
            seed=seed,
            note=note,
            truncate=truncate,
            device=device,
            dtype=dtype,
            attention=attention,
            memory=memory,
        )

    run_study("atlas", experiment, record=not no_record, json=json, single=len(models) == 1)


@atlas.command()
def topics(atlas: AtlasOption = "", json: Json = False) -> None:
    """List the topics, the AUROC of each covariate and the number of selective neurons."""
    from neuroscope.studies.atlas.tables import topics_table

    with _open(atlas) as opened:
        frame = opened.topics()
    _show(frame.drop(columns="topic"), topics_table, opened, json=json)


@atlas.command()
def neurons(
    topic: Annotated[str, typer.Option(help="Topic. [default: all]")] = "",
    layers: Annotated[str, typer.Option(help="Layers: 3, 0-5, 2,4 or -1. [default: all]")] = "",
    top: Top = 50,
    every: Annotated[
        bool, typer.Option("--all", help="Also list neurons that do not meet the thresholds.")
    ] = False,
    confounded: Annotated[
        bool | None,
        typer.Option(
            "--confounded/--not-confounded",
            help="List only neurons that length, punctuation or source explain, or only the rest.",
        ),
    ] = None,
    silent: Annotated[
        bool | None,
        typer.Option("--silent/--active", help="List only neurons silent, or active, on a topic."),
    ] = None,
    verified: Annotated[
        bool | None,
        typer.Option(
            "--verified/--not-verified",
            help="List only neurons confirmed by silencing, or only tested ones not confirmed.",
        ),
    ] = None,
    atlas: AtlasOption = "",
    json: Json = False,
) -> None:
    """List the neurons that respond to a topic, the strongest first."""
    from neuroscope.studies.atlas.tables import neurons_table

    with _open(atlas) as opened:
        frame = opened.neurons(
            topic or None,
            layers=layers or None,
            top=top,
            selective=not every,
            confounded=confounded,
            polarity=None if silent is None else -1 if silent else 1,
            verified=verified,
        )
    _show(frame, neurons_table, opened, json=json)


@atlas.command()
def neuron(
    name: Annotated[str, typer.Argument(help="Neuron, such as mlp_act.3.57.")],
    examples: Annotated[int, typer.Option(min=1, help="Example prompts of each kind.")] = 5,
    atlas: AtlasOption = "",
    json: Json = False,
) -> None:
    """Show the card of a neuron: topics, histogram, examples, tokens and neighbours."""
    from flows.display import print_json, print_text, show_table
    from neuroscope.studies.atlas.cards import card_document, card_of

    with _open(atlas) as opened:
        found = opened.neuron(name)
        topics = opened.topics()
    if json:
        print_json(card_document(found, topics))
        return
    card = card_of(found, examples, topics=topics)
    show_table(card.topics)
    print_text(f"\n{card.summary}\n{card.histogram}")
    show_table(card.examples)
    print_text("")
    for title, text in card.words.items():
        print_text(f"{title}: {text}")


@atlas.command()
@interruptible(kept)
def search(
    text: Annotated[str, typer.Argument(help="Text to run through the model.")],
    top: Top = 20,
    model: Annotated[
        str, typer.Option(help="Model to load. [default: the name or path in the atlas]")
    ] = "",
    device: Device = "auto",
    atlas: AtlasOption = "",
    json: Json = False,
) -> None:
    """Find the neurons that respond most unusually to a text, compared with the atlas's prompts."""
    from neuroscope.studies.atlas.search import search_text
    from neuroscope.studies.atlas.tables import search_table

    with _open(atlas) as opened:
        frame = search_text(opened, text, top=top, model=model, device=device)
    _show(frame, lambda frame: search_table(frame, text), opened, json=json)


@atlas.command()
def diff(
    first: Annotated[str, typer.Argument(help="Atlas of the old version: file, run or model.")],
    second: Annotated[str, typer.Argument(help="Atlas of the new version.")],
    topic: Annotated[str, typer.Option(help="Topic. [default: all]")] = "",
    top: Top = 20,
    json: Json = False,
) -> None:
    """Compare the atlases of two versions of a model: which neurons changed."""
    from flows.display import show_changes
    from neuroscope.studies.atlas.changes import atlas_changes

    with _open(first) as old, _open(second) as new:
        changes = atlas_changes(old, new, topic or None)
        atlases = {"old": old.path, "new": new.path}
    show_changes(changes, atlases, top, json=json)


@atlas.command()
@interruptible(kept)
def ablate(
    neuron: Annotated[str, typer.Argument(help="Neuron, such as mlp_act.3.57.")] = "",
    topic: Annotated[
        str,
        typer.Option(
            help="Topic on which the neuron is tested; without a neuron, the topic's strongest"
            " neurons are. [default: those for which the neuron is selective]"
        ),
    ] = "",
    top: Annotated[int, typer.Option(min=1, help="Number of neurons if none is named.")] = 10,
    mode: Annotated[
        Literal["mean", "zero", "range"],
        typer.Option(help="Replacement: its mean, 0, or its mean only within the topic's range."),
    ] = "mean",
    prompts: Annotated[
        int, typer.Option(help="Maximum prompts on the topic, and off it; at least 10.")
    ] = 100,
    controls: Annotated[
        int, typer.Option(help="Maximum number of control sets; at least 20.")
    ] = 39,
    seed: Seed = 0,
    model: Annotated[
        str, typer.Option(help="Model to load. [default: the name or path in the atlas]")
    ] = "",
    device: Device = "auto",
    out: Annotated[
        str, typer.Option(help="File of the new atlas. [default: in the home folder and MLflow]")
    ] = "",
    atlas: AtlasOption = "",
    no_record: NoRecord = False,
    json: Json = False,
) -> None:
    """Test whether the model uses neurons for a topic, by silencing them."""
    from flows.display import show_ablation, show_log
    from flows.progress_bars import progress_bar
    from neuroscope.studies.atlas.verifying import verify

    tested: dict[str, Any] = {"neuron": neuron, "topic": topic, "top": top, "mode": mode}
    drawn = {"prompts": prompts, "controls": controls, "seed": seed}
    with _open(atlas) as opened, show_log(), progress_bar() as progress:
        settings = tested | drawn | {"device": device, "progress": progress}
        unsaved = partial(show_ablation, json=json)
        result, path = verify(
            opened, model, out=out, record=not no_record, unsaved=unsaved, **settings
        )
    show_ablation(result, path, json=json)


def _open(name: str) -> "Atlas":
    """Open the atlas that a file, a run or a model names."""
    from neuroscope.studies.atlas.find import open_atlas

    return open_atlas(name)


def _show(
    frame: "pd.DataFrame",
    table_of: "Callable[[pd.DataFrame], Table]",
    atlas: "Atlas",
    *,
    json: bool,
) -> None:
    """Print a data frame as a table and the path of its atlas, or as a document with `rows`."""
    from flows.display import print_json, print_text, show_table
    from neuroscope.studies.atlas.tables import plain_records

    if json:
        print_json({"rows": plain_records(frame)})
        return
    show_table(table_of(frame))
    print_text(f"\nAtlas: {atlas.path}")
