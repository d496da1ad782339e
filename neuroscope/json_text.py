"""JSON output of commands and files: Unicode text, without NaN and infinity."""

import codecs
import json
import math
from typing import Any


def json_text(document: Any, *, encoding: str = "utf-8") -> str:
    """Return a document as JSON; NaN and infinity, which JSON lacks, become null.

    Args:
        document: document of plain values.
        encoding: encoding of the output; in others than UTF-8, characters are escaped (`\\u00e9`).
    """
    escaped = codecs.lookup(encoding).name != "utf-8"
    return json.dumps(_finite(document), ensure_ascii=escaped, indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    """Return a value with NaN and infinity replaced by None at any depth."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
