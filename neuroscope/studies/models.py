"""Finding and loading of models by name, including models registered in MLflow."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, cast

from neuroscope.errors import ModelError
from neuroscope.extraction import models
from neuroscope.extraction.checkpoints import Checkpoint, find_checkpoint
from neuroscope.extraction.models import Model

P = ParamSpec("P")
R = TypeVar("R")


def find_model(name: str) -> Checkpoint:
    """Find a model's files without loading them.

    Args:
        name: `models:/news@champion` or `models:/news/3` for a version of a model registered in
            MLflow, or a name as in `neuroscope.extraction.checkpoints.find_checkpoint`.

    Returns:
        Checkpoint with this name; for a registered model, `revision` is the number of its version.

    Raises:
        ModelError: the model, alias or version does not exist, or the model cannot be used.
        TrackingError: MLflow cannot be reached or refuses the request.
        ResourceError: the disk is too full to download a registered model.
    """
    if not name.startswith("models:"):
        return find_checkpoint(name)
    from neuroscope.reporting.registry import find_model_files

    files = find_model_files(name)
    try:
        checkpoint = find_checkpoint(str(files.folder))
    except ModelError as error:
        problem = f"{name} (version {files.version}) cannot be used: {error.problem}"
        raise ModelError(problem, options=error.options, remedy=error.remedy) from error
    return replace(
        checkpoint,
        name=name,
        revision=str(files.version),
        tokenizer_folder=files.tokenizer_folder,
    )


def _same_signature(function: Callable[P, R]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Return a decorator that copies a signature, for type checkers and `help()`."""

    def decorate(wrapper: Callable[..., R]) -> Callable[P, R]:
        cast(Any, wrapper).__wrapped__ = function
        return cast(Callable[P, R], wrapper)

    return decorate


@_same_signature(models.load_model)
def load_model(name: str | Checkpoint, **options: Any) -> Model:
    """Load a model, ready to extract activations from.

    >>> model = load_model("models:/news@champion", device="cpu")

    Args:
        name: `minilm`, a folder, a hub id such as `bert-base-uncased`, a model registered in
            MLflow such as `models:/news@champion` or `models:/news/3`, or a checkpoint.
        options: options of `neuroscope.extraction.models.load_model`, such as `device` and
            `dtype`.

    Raises:
        ModelError: the model or an option does not exist, or the model cannot be used.
        TrackingError: MLflow cannot be reached or refuses the request.
        ResourceError: there is not enough memory or disk space.
    """
    checkpoint = name if isinstance(name, Checkpoint) else find_model(name)
    return models.load_model(checkpoint, **options)
