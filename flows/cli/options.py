"""Options that several commands share, with the words that a shell completes."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from neuroscope.options import DEVICES, Attention, Dtype, DtypeChoice, Memory, StudySite, choices

MODEL_NAMES = "Built-in name (minilm), folder, hub id (id@revision) or models:/name/3."


def completed(*words: str) -> Callable[[str], list[str]]:
    """Return a function that completes the beginning of one of the words, for a shell."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


_MODELS = completed("minilm")
ModelName = Annotated[str, typer.Option("--model", help=MODEL_NAMES, autocompletion=_MODELS)]
ModelNames = Annotated[
    list[str],
    typer.Option("--model", help=f"{MODEL_NAMES} Repeatable.", autocompletion=_MODELS),
]
Site = Annotated[
    str,
    typer.Option(
        help=f"Component to read: {', '.join(choices(StudySite))}.",
        autocompletion=completed(*choices(StudySite)),
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        help="Layers to read: all, 3, 0-5, 2,4 or -1 (the last); they count from 0.",
        autocompletion=completed("all"),
    ),
]
Truncate = Annotated[
    bool, typer.Option("--truncate", help="Truncate prompts at the model's limit.")
]
Device = Annotated[
    str,
    typer.Option(
        help=f"Device: {DEVICES}.", autocompletion=completed("auto", "cpu", "cuda", "mps", "all")
    ),
]
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
PromptsFile = Annotated[
    Path, typer.Argument(help="File of prompts: .txt, .csv, .tsv, .jsonl or .parquet.")
]
PromptsOption = Annotated[
    Path,
    typer.Option("--prompts", help="File of prompts: .txt, .csv, .tsv, .jsonl or .parquet."),
]
ChangesLabel = Annotated[
    str,
    typer.Option(
        "--label", help="Label to explain changes by. [default: the only label column, if any]"
    ),
]
Margin = Annotated[
    float, typer.Option("--margin", min=0, max=2, help="Largest acceptable statistic, 1 - r.")
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, help="Seed of replicates, resamples and splits.")
]
TextColumn = Annotated[str, typer.Option(help="Column of the file that contains the prompts.")]
Name = Annotated[
    str, typer.Option(help="Name of the experiment. [default: from the file or the prompts]")
]
Note = Annotated[str, typer.Option(help="Description of the MLflow run.")]
NoRecord = Annotated[bool, typer.Option("--no-record", help="Record nothing in MLflow.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
