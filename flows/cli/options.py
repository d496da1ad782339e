"""Options that several commands share."""

from typing import Annotated

import typer

from neuroscope.options import DEVICES, Attention, Dtype, DtypeChoice, Memory, StudySite, choices

MODEL_NAMES = "Built-in name (minilm), folder, hub id (id@revision) or models:/name/3."

ModelName = Annotated[str, typer.Option("--model", help=MODEL_NAMES)]
ModelNames = Annotated[list[str], typer.Option("--model", help=MODEL_NAMES + " Repeatable.")]
Site = Annotated[str, typer.Option(help=f"Component to read: {', '.join(choices(StudySite))}.")]
Layers = Annotated[
    str, typer.Option(help="Layers to read: all, 3, 0-5, 2,4 or -1 (the last); they count from 0.")
]
Truncate = Annotated[
    bool, typer.Option("--truncate", help="Truncate prompts at the model's limit.")
]
Device = Annotated[str, typer.Option(help=f"Device: {DEVICES}.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Number format of the forward pass.")]
DtypeOrAuto = Annotated[
    DtypeChoice,
    typer.Option(
        "--dtype", help="Number format of the forward pass; auto: bfloat16 where it is fast."
    ),
]
AttentionOption = Annotated[
    Attention, typer.Option("--attention", help="Attention implementation.")
]
MemoryOption = Annotated[
    Memory,
    typer.Option(
        "--memory",
        help="Placement of weights: resident (in memory), stream (on disk), auto (by size).",
    ),
]
Note = Annotated[str, typer.Option(help="Description of the MLflow run.")]
TextColumn = Annotated[str, typer.Option(help="Column of the file that contains the prompts.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
