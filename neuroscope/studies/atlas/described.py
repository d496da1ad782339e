"""The model that an atlas describes: found, checked and loaded as the atlas was built."""

import contextlib
from collections.abc import Mapping
from typing import Any

from neuroscope.errors import HeadlessError, ModelError
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.models import Model, load_model
from neuroscope.studies.models import find_model


def described_checkpoint(settings: Mapping[str, Any], model: Model | str) -> Checkpoint:
    """Return the files of a model, without loading it.

    Args:
        settings: row of the table `model` of the atlas.
        model: loaded model, or its name; empty for the name in the atlas.

    Raises:
        ModelError: the model cannot be found, or is not the one that the atlas describes.
    """
    own = model.checkpoint if isinstance(model, Model) else find_model(model or settings["name"])
    if own.fingerprint != settings["fingerprint"]:
        raise ModelError(
            f"the atlas describes '{settings['name']}' (SHA-256 {settings['fingerprint'][:12]}…),"
            f" but '{own.name}' has other files (SHA-256 {own.fingerprint[:12]}…)",
            remedy="name the model of the atlas, or build an atlas of this one",
        )
    return own


def load_described(
    settings: Mapping[str, Any], checkpoint: Checkpoint, device: str, *, head: bool = False
) -> Model:
    """Load a model in the number format in which the atlas read it.

    Args:
        settings: row of the table `model` of the atlas.
        checkpoint: files of the model.
        device: device of the model.
        head: whether to load the language-model head of a causal model, if it has one.
    """
    options = {name: settings[name] for name in ("dtype", "attention")} | {"device": device}
    if head and checkpoint.architecture.causal:
        with contextlib.suppress(HeadlessError):
            return load_model(checkpoint, head=True, **options)
    return load_model(checkpoint, **options)
