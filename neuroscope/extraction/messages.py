"""Warnings of transformers while it loads a model, passed on to the user."""

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Any

_HARMLESS = re.compile(
    r"LOAD REPORT"  # names of weights, which `check_fit` has compared
    r"|`torch_dtype` is deprecated"
    r"|incompatible to the `id2label` map"
    r"|`loss_type="
    r"|add `is_decoder=True"
)
_GENERATION = "transformers.generation"  # logger of the code that generates text

_log = logging.getLogger("neuroscope")


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
            _log.warning("model '%s': transformers warns: %s", self._model, message)
