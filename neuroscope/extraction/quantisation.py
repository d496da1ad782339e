"""Quantised weights: the method that decodes them, and refusal of those that nothing would decode.

Transformers reads numbers of few bits as if they were the weights, and drops their scales, unless
quantization_config in config.json names a method that it knows.
"""

from collections.abc import Iterable, Mapping
from itertools import accumulate

from neuroscope.errors import ModelError
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.weights import DTYPES, StoredTensor

_OTHER_KEYS = ("quantization", "compression_config", "quant_config")
_OTHER_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Places where other libraries describe the quantisation; transformers reads none of them."""

_QUANTISED_WHEN_LOADED = ("bitnet",)
"""Methods that may quantise weights which are stored as floating-point numbers."""

Tensors = Mapping[str, StoredTensor]
"""Tensors of the files, by their names there."""


def check_formats(checkpoint: Checkpoint, tensors: Tensors, modules: Iterable[str]) -> None:
    """Raise ModelError unless the number formats of the weights are those of config.json.

    Args:
        checkpoint: files of the model.
        tensors: weights of the model.
        modules: paths of the modules that own weights, as in the names of `tensors`.
    """
    coded = {name: tensor for name, tensor in tensors.items() if tensor.dtype not in DTYPES}
    example = next((f"{name} is stored as {coded[name].dtype}" for name in sorted(coded)), "")
    method = _method(checkpoint, example)
    if method is None:
        if coded:
            raise _undecodable(checkpoint, f"{example}, and quantization_config is missing")
    elif not coded and method not in _QUANTISED_WHEN_LOADED:
        formats = ", ".join(sorted({tensor.dtype for tensor in tensors.values()}))
        raise _undecodable(
            checkpoint,
            f"quantization_config names the method '{method}', but all weights are stored as"
            f" {formats}",
        )
    else:
        _check_scales(checkpoint, method, tensors, set(modules))


def owner(name: str, modules: set[str]) -> str | None:
    """Return the path of the module, one of `modules`, to which a weight belongs."""
    parents = accumulate(name.split("."), lambda path, part: f"{path}.{part}")
    return next((path for path in parents if path in modules), None)


def _method(checkpoint: Checkpoint, example: str) -> str | None:
    """Return the method of quantisation, or None; raise ModelError if transformers lacks it."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    settings = checkpoint.config.get("quantization_config")
    stored = f", and {example}" if example else ""
    if settings is None:
        if places := _other_places(checkpoint):
            raise _undecodable(
                checkpoint,
                f"its quantisation is described in {', '.join(places)} instead of in"
                f" quantization_config of config.json{stored}",
            )
        return None
    entries = settings if isinstance(settings, dict) else {"quant_method": settings}
    if entries.get("load_in_4bit") or entries.get("load_in_8bit"):
        return "bitsandbytes"
    method = str(entries.get("quant_method"))
    if not isinstance(settings, dict) or method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise _undecodable(
            checkpoint,
            f"transformers does not know the method '{method}' of quantization_config{stored}",
        )
    return method


def _other_places(checkpoint: Checkpoint) -> list[str]:
    """Return the places, other than quantization_config, that describe a quantisation."""
    keys = [f"{key} of config.json" for key in _OTHER_KEYS if checkpoint.config.get(key)]
    return keys + [name for name in _OTHER_FILES if (checkpoint.folder / name).is_file()]


def _check_scales(checkpoint: Checkpoint, method: str, tensors: Tensors, modules: set[str]) -> None:
    """Raise ModelError if a module has quantised weights alone, or not those of the method."""
    parts: dict[str, list[str]] = {}
    for name in tensors:
        if path := owner(name, modules):
            parts.setdefault(path, []).append(name)
    for names in parts.values():
        for name in names:
            dtype = tensors[name].dtype
            alone = [other for other in names if not other.endswith(".bias")] == [name]
            if dtype not in DTYPES and alone:
                raise _undecodable(checkpoint, f"{name} is stored as {dtype}, without a scale")
            float8 = dtype.startswith("F8_")
            if "fp8" in method and name.endswith(".weight") and dtype not in DTYPES and not float8:
                raise _undecodable(
                    checkpoint, f"{name} is stored as {dtype}, but the method is '{method}'"
                )


def _undecodable(checkpoint: Checkpoint, reason: str) -> ModelError:
    """Return the error about weights that would be read as other numbers than they stand for."""
    return ModelError(
        f"model '{checkpoint.name}' cannot be loaded: {reason}",
        remedy="use a version of the model in float32, bfloat16 or float16, or in a quantised"
        " format of transformers",
    )
