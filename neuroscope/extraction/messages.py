"""Warnings about the values of a model that is loaded: logged, and kept for its results."""

import contextlib
import logging
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

_HARMLESS = re.compile(
    r"LOAD REPORT"  # names of weights, which `check_fit` has compared
    r"|both are absent from the checkpoint"  # weights of a head, which are compared as well
    r"|`torch_dtype` is deprecated"
    r"|incompatible to the `id2label` map"
    r"|`loss_type="
    r"|add `is_decoder=True"
)
_GENERATION = "transformers.generation"  # logger of the code that generates text

_log = logging.getLogger("neuroscope")

_kept: ContextVar[list[str] | None] = ContextVar("the warnings that are kept", default=None)


def warn(model: str, problem: str) -> None:
    """Log a warning about the values of a model, and keep it within `kept_warnings`."""
    message = f"model '{model}': {problem}"
    _log.warning("%s", message)
    kept = _kept.get()
    if kept is not None and message not in kept:
        kept.append(message)


@contextlib.contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """Return a list to which each warning about values in the block is added.

    What is kept does not depend on what is logged.
    """
    messages: list[str] = []
    token = _kept.set(messages)
    try:
        yield messages
    finally:
        _kept.reset(token)


@contextlib.contextmanager
def passed_on(model: str) -> Iterator[None]:
    """Log the warnings of transformers as warnings of neuroscope, and turn off its progress bars.

    Each message is logged once, with the name of the model; harmless ones are left out.
    """
    import transformers.utils.logging

    transformers_logging: Any = transformers.utils.logging
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    logger = logging.getLogger("transformers")
    handlers, propagate = logger.handlers[:], logger.propagate
    transformers_logging.set_verbosity_warning()
    transformers_logging.disable_progress_bar()
    transformers_logging.warning_once.cache_clear()  # it would leave out what an earlier model had
    logger.handlers[:], logger.propagate = [_PassedOn(model)], False
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


class _PassedOn(logging.Handler):
    """Handler that logs each message once, as a warning of neuroscope."""

    def __init__(self, model: str):
        super().__init__(logging.WARNING)
        self._model, self._seen = model, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        """Log a message, unless it is harmless or has been logged."""
        message = " ".join(record.getMessage().split())
        harmless = _HARMLESS.search(message) or record.name.startswith(_GENERATION)
        if message not in self._seen and not harmless:
            self._seen.add(message)
            warn(self._model, f"transformers warns: {message}")
