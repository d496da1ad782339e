"""JSON output of commands and files: UTF-8, without NaN and infinity."""

import json
import math
from typing import Any


def json_text(document: Any) -> str:
    """Return a document as JSON; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_finite(document), ensure_ascii=False, indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    """Return a value with NaN and infinity replaced by None at any depth."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
