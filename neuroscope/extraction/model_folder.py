"""Weight files in the folder of a model, and refusal of folders that are no complete model."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroscope.errors import ModelError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DISTRIBUTED = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors")
MERGE = "merge it into its base model with peft (merge_and_unload, then save_pretrained)"


def weight_files(folder: Path, name: str, config: Mapping[str, Any]) -> list[Path]:
    """Return the files with the weights: model.safetensors, or else the files that its index lists.

    Args:
        folder: folder of the model.
        name: name of the model, for error messages.
        config: contents of config.json.

    Raises:
        ModelError: there are no such files, the index cannot be read or lists files outside the
            folder, or transformers would read other files.
    """
    if distributed := sorted(filter(_DISTRIBUTED.fullmatch, _names(folder))):
        raise ModelError(
            f"model '{name}' cannot be loaded: {distributed[0]} is a part of a distributed"
            " checkpoint",
            remedy="load it with transformers and save it with save_pretrained",
        )
    single = (folder / _SINGLE).is_file()
    read = _SINGLE if single else _INDEX
    if config.get("transformers_weights") not in (None, read):
        raise ModelError(
            f"model '{name}' cannot be loaded: its config.json names other weights"
            f" (transformers_weights: {config['transformers_weights']!r}) than {read}",
            remedy="remove transformers_weights, and the weights that are not to be read",
        )
    return [folder / _SINGLE] if single else _listed(folder, name)


def refuse_adapter(folder: Path, name: str) -> None:
    """Raise ModelError if a folder holds an adapter of PEFT, alone or beside a complete model.

    Whether transformers applies an adapter that is beside a model depends on what is installed.
    """
    settings = folder / "adapter_config.json"
    weights = any(folder.glob("adapter_model.*"))
    complete = any((folder / file).is_file() for file in (_SINGLE, _INDEX))
    if complete or ((folder / "config.json").is_file() and not weights):
        problem, remedy = "is accompanied by an adapter", f"{MERGE}, or remove {settings.name}"
    else:
        problem, remedy = "is an adapter, not a complete model", f"{MERGE} and load the result"
    if settings.is_file() or (weights and not complete):
        raise ModelError(
            f"model '{name}' cannot be loaded: it {problem} ({_base_model(settings)})",
            remedy=remedy,
        )


def _base_model(settings: Path) -> str:
    """Describe the base model that an adapter_config.json names."""
    try:
        base = json.loads(settings.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    return f"its base model is '{base}'" if base else "its base model is not named"


def _names(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return [path.name for path in folder.iterdir()]


def _listed(folder: Path, name: str) -> list[Path]:
    """Return the files that the index lists, sorted by name."""
    index = folder / _INDEX
    if not index.is_file():
        raise _without_weights(folder, name)
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
        _ = entries["metadata"]  # transformers cannot read an index without it
        files = sorted(set(entries["weight_map"].values()))
        outside = [file for file in files if Path(file).name != file]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"model '{name}' cannot be loaded: {index} cannot be read ({error!r})",
            remedy="copy or download its files again",
        ) from error
    if outside or not files:
        raise ModelError(
            f"model '{name}' cannot be loaded: {index} lists"
            f" {', '.join(outside[:3]) or 'no files'}",
            remedy="keep all weights in the folder of the model, and list their names",
        )
    return [folder / file for file in files]


def _without_weights(folder: Path, name: str) -> ModelError:
    """Return the error about a folder without weights that may be read."""
    names = sorted(_names(folder))
    if others := [file for file in names if file.endswith(".safetensors")]:
        return ModelError(
            f"model '{name}' cannot be loaded: {folder} has neither {_SINGLE} nor {_INDEX}, only"
            f" {', '.join(others[:3])}",
            remedy=f"rename the file that is to be read to {_SINGLE}",
        )
    pickles = [file for file in names if file.endswith((".bin", ".pt", ".pth"))]
    only = f"only {', '.join(pickles)}" if pickles else "nor any other weights"
    return ModelError(
        f"model '{name}' cannot be loaded: it has no *.safetensors, {only}; pickled weights can run"
        " code when they are loaded",
        remedy="convert the weights to safetensors",
    )
