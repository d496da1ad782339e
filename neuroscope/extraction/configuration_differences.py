"""Differences between the configurations of two checkpoints that can change values."""

import re
from dataclasses import dataclass
from typing import Any

from neuroscope.errors import ModelError
from neuroscope.extraction.checkpoints import READING, Checkpoint
from neuroscope.extraction.messages import passed_on

_WITHOUT_EFFECT = re.compile(
    r"_.*|transformers_version|architectures|dtype"  # origin; number formats are in the weights
    r"|.*dropout.*|.*_pdrop|initializer_range|pretraining_tp"  # training
    r"|(id|label)2(id|label)|problem_type|summary_.*"  # heads other than that of language models
    r"|use_cache|return_dict|output_(attentions|hidden_states)|chunk_size_feed_forward"  # results
    r"|(bos|eos)_token_id"  # generation
    r"|tie_word_embeddings"  # compared as weights of the head
)
"""Entries that transformers follows, but that do not change the values of a forward pass."""


@dataclass(frozen=True)
class ConfigurationDifference:
    """Entry of config.json, or its default, that differs between two checkpoints."""

    key: str
    base: Any
    """Value in the base, None if its family has no such entry."""
    candidate: Any
    """Value in the candidate, None if its family has no such entry."""


def compare_configurations(
    base: Checkpoint, candidate: Checkpoint
) -> tuple[ConfigurationDifference, ...]:
    """Return the entries of two configurations that differ and can change values, sorted by key.

    Only entries that transformers follows are compared. One that config.json leaves out has the
    default of the family. `pad_token_id` counts in families whose positions start after it.

    Raises:
        ModelError: transformers cannot read a config.json.
    """
    if base.config == candidate.config:
        return ()
    old, new = effective_config(base), effective_config(candidate)
    keys = sorted(key for key in {*old, *new} if not _WITHOUT_EFFECT.fullmatch(key))
    if not any(each.architecture.positions_after_padding for each in (base, candidate)):
        keys.remove("pad_token_id")
    return tuple(
        ConfigurationDifference(key, old.get(key), new.get(key))
        for key in keys
        if old.get(key) != new.get(key)
    )


def effective_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the entries of config.json that transformers follows, with the family's defaults.

    Raises:
        ModelError: transformers cannot read config.json.
    """
    from transformers import AutoConfig

    try:
        with passed_on(checkpoint.name):
            config = AutoConfig.from_pretrained(checkpoint.folder, **READING)
    except Exception as error:  # transformers raises what its checks of types raise
        reason = " ".join(str(error).split())
        raise ModelError(
            f"model '{checkpoint.name}' cannot be loaded: its config.json cannot be read ({reason})"
        ) from error
    known = {*type(config)().to_dict(), "quantization_config"}
    return {key: value for key, value in config.to_dict().items() if key in known}
