"""JSON without NaN and infinity: output of commands and files, and lines of prompt files."""

import codecs
import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn


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


def parsed_json(text: str) -> Any:
    """Return the value of a JSON text, of which nothing is lost silently.

    Raises:
        ValueError: the text is not JSON, an object has a key twice, or a number is too large.
        RecursionError: it is nested too deeply.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_distinct_keys,
            parse_float=_finite_number,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        raise ValueError(error.msg) from error


def _distinct_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raise ValueError if a key occurs twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} occurs twice in an object")
    return value


def _finite_number(text: str) -> float:
    """Return a number; raise ValueError if it is infinite as a floating-point number."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {text} is too large; quote it to keep it as text")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")
