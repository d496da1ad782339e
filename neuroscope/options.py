"""Settings that have a fixed set of values, declared once for Python, YAML, forms and commands."""

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from neuroscope.errors import NeuroscopeError

Pool = Literal["mean", "max", "last", "first", "none"]
"""How a prompt's tokens become one row; `none` keeps every token."""
TokenRule = Literal["content", "all"]
"""Which tokens count: without special tokens, or with them; padding never counts."""
Dtype = Literal["float32", "bfloat16", "float16"]
"""Number format of the forward pass."""
DtypeChoice = Literal["auto", "float32", "bfloat16", "float16"]
"""As `Dtype`, or bfloat16 where the device is fast in it and float32 elsewhere."""
Attention = Literal["sdpa", "eager"]
"""Implementation of attention."""
PaddingSide = Literal["right", "left"]
"""Where the padding of a batch stands."""
Memory = Literal["auto", "resident", "stream"]
"""Whether weights are held in memory, left in their files, or whichever fits."""

DEVICES = "auto, cpu, cpu:4 (four threads), cuda, cuda:1, mps or all (every GPU)"
"""The devices there can be, for messages and help."""


def choices(kind: Any) -> tuple[str, ...]:
    """The values of one of the types above.

    >>> choices(TokenRule)
    ('content', 'all')
    """
    return get_args(kind)


def check_choice(option: str, value: str, known: Sequence[str]) -> None:
    """Raise NeuroscopeError unless `value` is one of `known`."""
    if value not in known:
        raise NeuroscopeError(f"unknown {option} {value!r}; choose one of {', '.join(known)}")


def check_device_name(device: str) -> None:
    """Raise NeuroscopeError unless a device could be called so; it need not exist here."""
    if not re.fullmatch(r"auto|all|cpu(:[1-9]\d*)?|mps|cuda(:\d+)?", device):
        raise NeuroscopeError(f"unknown device {device!r}; choose {DEVICES}")
