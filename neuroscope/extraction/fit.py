"""Comparison of the weights in the files with those that the model computes with.

Transformers drops weights that it does not expect, and fills missing ones with random numbers. The
model is therefore built without values first, and both lists of names are compared.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from neuroscope.errors import ModelError
from neuroscope.extraction.checkpoints import READING, Checkpoint
from neuroscope.extraction.configuration import ignored_entries
from neuroscope.extraction.messages import warn
from neuroscope.extraction.model_folder import MERGE
from neuroscope.extraction.quantisation import check_formats, owner
from neuroscope.extraction.weights import StoredTensor, WeightFiles
from neuroscope.options import Attention, Dtype

if TYPE_CHECKING:
    import torch

_HEAD = re.compile(
    r"(\d+\.)?"  # position of a module of sentence-transformers
    r"(pooler|cls|qa_outputs|linear|projection|summary|crf|vocab_(transform|layer_norm|projector)"
    r"|\w*heads?|\w*score|\w*classifi\w*|\w*predict\w*|\w*regress\w*)\."
)
"""Weights after the last layer; no site but `logits` needs them."""

_BUFFER = re.compile(
    r"(^|\.)(position_ids|token_type_ids|num_batches_tracked"
    r"|rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)"
    r"|h\.\d+\.attn\.(bias|masked_bias))$"  # GPT-2's causal mask
)
"""Values that are computed from config.json."""

_UNUSED_HEAD = re.compile(r"cls\.seq_relationship\.")  # beside the language-model head of BERT
_ADAPTER = re.compile(r"\.(lora_\w+|ia3_\w+|base_layer)(\.|$)")

_READ_ENTRIES = (
    *("model_type", "num_labels", "output_attentions"),
    *("attn_implementation", "experts_implementation"),
)
"""Entries of config.json that transformers turns into other attributes."""


def build_empty(checkpoint: Checkpoint, dtype: Dtype, attention: Attention, *, head: bool) -> Any:
    """Return the model on the meta device, where tensors have shapes but no values."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint.folder, **READING)
    build: Any = auto_class(checkpoint, head=head).from_config
    with torch.device("meta"):
        module = build(config, dtype=getattr(torch, dtype), attn_implementation=attention)
    return module.eval().requires_grad_(False)


def auto_class(checkpoint: Checkpoint, *, head: bool) -> Any:
    """Return the class of transformers that loads the model, with or without its head."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

    if not head:
        return AutoModel
    return AutoModelForCausalLM if checkpoint.architecture.causal else AutoModelForMaskedLM


def check_fit(checkpoint: Checkpoint, files: WeightFiles, module: Any) -> None:
    """Raise ModelError unless a model computes with exactly the weights in its files.

    Weights of a head and of the pooler may be missing, or be in the files without being used.

    Args:
        checkpoint: files of the model.
        files: weights of the model.
        module: model from `build_empty`.
    """
    expected = module.state_dict()
    modules = {name.rpartition(".")[0] for name in expected}

    def is_known(name: str) -> bool:
        # the parts of a quantised weight have names of their own, but belong to the same module
        part = checkpoint.quantised and owner(name, modules) and not _ADAPTER.search(name)
        return name in expected or bool(part)

    body = body_path(module)
    used, unused = _matched(files, body, is_known)
    dropped = {name: unused[name] for name in _harmful(module, unused)}
    check_formats(checkpoint, used | dropped, modules)
    refuse_unused(checkpoint, module, dropped)
    if not checkpoint.quantised:
        refuse_unfit(checkpoint, module, _unfit(expected, used, body))


def log_ignored_entries(checkpoint: Checkpoint, module: Any) -> None:
    """Log the entries of config.json that transformers ignores, unless they are metadata.

    These include architectures of other libraries, which it loads as those of the model's family.
    """
    from transformers import GenerationConfig

    default, generation = type(module.config)(), cast(Any, GenerationConfig)()
    known = {*vars(default), *default.attribute_map, *vars(generation), *_READ_ENTRIES}
    if hasattr(default, "rope_parameters"):
        known |= {"rope_scaling", "rope_theta", "original_max_position_embeddings"}
    keys = ignored_entries(checkpoint.architecture, checkpoint.config, known)
    names = checkpoint.config.get("architectures") or []
    foreign = [name for name in names if _family(str(name)) != checkpoint.architecture.family]
    if keys := [*keys, *(f"architectures: {name}" for name in foreign)]:
        warn(
            checkpoint.name,
            "values are computed without some entries of its config.json, which transformers"
            f" ignores ({', '.join(keys)})",
        )


def _family(architecture: str) -> str | None:
    """Return the family of a class of transformers, such as `LlamaForCausalLM`; None if unknown."""
    import transformers

    config = getattr(getattr(transformers, architecture, None), "config_class", None)
    return getattr(config, "model_type", None)


def refuse_unused(checkpoint: Checkpoint, module: Any, unused: Iterable[str]) -> None:
    """Raise ModelError if weights that are not used could change values at a site.

    Args:
        checkpoint: files of the model.
        module: model, with or without its head.
        unused: names of the weights that are in the files, but not in the model.
    """
    if names := _harmful(module, unused):
        rewritten = "use a model that transformers implements, or remove them from the files"
        raise ModelError(
            f"model '{checkpoint.name}' cannot be loaded: {len(names)} of its weights are not part"
            f" of a {checkpoint.architecture.family} model ({_listed(names)})",
            remedy=MERGE if any(map(_ADAPTER.search, names)) else rewritten,
        )


def refuse_unfit(checkpoint: Checkpoint, module: Any, unfit: Iterable[str]) -> None:
    """Raise ModelError if weights that a site needs are missing or have the wrong shape.

    Args:
        checkpoint: files of the model.
        module: model, with or without its head.
        unfit: names of the weights that are missing or have the wrong shape.
    """
    pooler = f"{body_path(module)}pooler."  # no site needs it
    if needed := sorted(name for name in unfit if not name.startswith(pooler)):
        raise ModelError(
            f"model '{checkpoint.name}' cannot be loaded: its weights do not fit its config.json"
            f" (missing or of another shape: {_listed(needed)})"
        )


def body_path(module: Any) -> str:
    """Return what precedes the names of the body's weights; empty if the model has no head."""
    return "" if module.base_model is module else f"{module.base_model_prefix}."


def _matched(
    files: WeightFiles, body: str, is_known: Callable[[str], bool]
) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor]]:
    """Return the tensors that a model uses, by their names in the model, and the other tensors.

    Args:
        files: weights of the model.
        body: what precedes the names of the body's weights in the model.
        is_known: function that returns whether the model has a weight.
    """
    used: dict[str, StoredTensor] = {}
    unused: dict[str, StoredTensor] = {}
    for name, tensor in files.stored.items():
        if is_known(body + name):
            used[body + name] = tensor
        elif body and is_known(name):
            used[name] = tensor
        else:
            unused[name] = tensor
    for name, tensor in files.outside.items():
        if body and is_known(name) and not name.startswith(body):
            used[name] = tensor
        else:
            unused[name] = tensor
    return used, unused


def _unfit(
    expected: "Mapping[str, torch.Tensor]", used: Mapping[str, StoredTensor], body: str
) -> list[str]:
    """Return the names of weights that the files lack or have in another shape.

    Weights of the head may be missing: they may be those of the embeddings.
    """
    missing = [name for name in expected if name not in used and name.startswith(body)]
    return missing + [
        name for name, tensor in used.items() if tensor.shape != tuple(expected[name].shape)
    ]


def _harmful(module: Any, unused: Iterable[str]) -> list[str]:
    """Return the weights, of those that a model does not use, that could change values at a site.

    Args:
        module: model, with or without its head.
        unused: names of the weights, without the prefix of the model's layers.
    """
    # all weights of a head that is loaded are needed
    loaded = {name for name, _ in module.named_children()} if body_path(module) else set()
    heads = (name for name in unused if _HEAD.match(name) and name.partition(".")[0] not in loaded)
    computed = (name for name in unused if _BUFFER.search(name) or _UNUSED_HEAD.match(name))
    return sorted({*unused} - {*heads} - {*computed})


def _listed(names: Sequence[str]) -> str:
    """Return the first names as text, with an ellipsis if there are more."""
    return ", ".join([*names[:3], *(["…"] if len(names) > 3 else [])])
