"""What started a run, and why it ended before it finished, as MLflow shows them."""

import contextlib
import getpass

from neuroscope.errors import NeuroscopeError
from neuroscope.redaction import redacted


def source_tags(source: str) -> dict[str, str]:
    """Return the tags that MLflow shows as the source and the creator of a run."""
    tags = {"mlflow.source.name": source, "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(OSError, KeyError):  # the user has no name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def reason_of(error: BaseException) -> str:
    """Return a sentence on why an error ended a run."""
    if isinstance(error, NeuroscopeError):
        return error.message(lambda option: option.in_python)
    if isinstance(error, Exception):
        return redacted(f"{type(error).__name__}: {error}")
    return "interrupted"
