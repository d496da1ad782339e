"""Settings that have a fixed set of values, declared once for Python, YAML, forms and commands."""

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from neuroscope.errors import NeuroscopeError

Pool = Literal["mean", "max", "last", "first", "none"]
"""Ways to pool a prompt's tokens into one row; `none` keeps every token."""
TokenRule = Literal["content", "all"]
"""Rules on which tokens count: without special tokens, or all; padding never counts."""
Dtype = Literal["float32", "bfloat16", "float16"]
"""Number formats of the forward pass."""
DtypeChoice = Literal["auto", "float32", "bfloat16", "float16"]
"""Number formats, or `auto`: bfloat16 where the device computes fast in it, else float32."""
Attention = Literal["sdpa", "eager"]
"""Implementations of attention."""
PaddingSide = Literal["right", "left"]
"""Sides of a prompt on which it is padded."""
StudyKind = Literal["compare", "layers", "drift", "atlas", "association"]
"""Kinds of study."""
StudySite = Literal["resid_pre", "attn_out", "mlp_act", "mlp_out", "resid_post", "final"]
"""Components that a study can read."""
Memory = Literal["auto", "resident", "stream"]
"""Placement of the weights: in memory, in their files, or `auto`, in memory if they fit."""

DEVICES = "auto, cpu, cpu:4 (four threads), cuda, cuda:1, mps or all (every GPU)"
"""Names of devices, for messages and help."""


def choices(kind: Any) -> tuple[str, ...]:
    """Return the values of one of the types above.

    >>> choices(TokenRule)
    ('content', 'all')
    """
    return get_args(kind)


def check_choice(option: str, value: str, known: Sequence[str]) -> None:
    """Raise NeuroscopeError unless `value` is one of `known`."""
    if value not in known:
        raise NeuroscopeError(unknown_choice(option, value, known))


def unknown_choice(option: str, value: str, known: Sequence[str]) -> str:
    """Return the message on a value that is not one of the known ones.

    >>> unknown_choice("dtype", "float99", choices(Dtype))
    "unknown dtype 'float99'; choose float32, bfloat16 or float16"
    """
    *others, last = known
    listed = f"{', '.join(others)} or {last}" if others else last
    return f"unknown {option} {value!r}; choose {listed}"


def check_device_name(device: str) -> None:
    """Raise NeuroscopeError unless a device name is valid; the device need not exist here."""
    if not re.fullmatch(r"auto|all|cpu(:[1-9]\d*)?|mps|cuda(:\d+)?", device):
        raise NeuroscopeError(f"unknown device {device!r}; choose {DEVICES}")
