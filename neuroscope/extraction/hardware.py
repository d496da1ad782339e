"""Choice of the device, and of a number format that is fast on it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from neuroscope.errors import ModelError, Option
from neuroscope.options import Dtype, DtypeChoice, check_choice, check_device_name, choices

if TYPE_CHECKING:
    import torch


def resolve_device(device: str) -> str:
    """Return the name of the device to use, with `auto` resolved and the number of threads removed.

    Args:
        device: name of a device: `auto` (a GPU if there is one), `cpu`, `cpu:4` (four threads),
            `cuda`, `cuda:1`, `mps`, or `all` (the model's layers are spread over all GPUs).

    Raises:
        NeuroscopeError: the name is unknown.
        ModelError: this machine does not have the device.
    """
    import torch

    check_device_name(device)
    kind, _, number = device.partition(":")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"
    if kind == "cpu":
        return "cpu"
    if not (_has_mps() if kind == "mps" else _has_cuda(number)):
        raise ModelError(
            f"this machine has no device '{device}'",
            options=[Option("device", "auto", "use a device that it has")],
        )
    return device


def threads_of(device: str) -> int | None:
    """Return the number of threads in the name of a device, such as `cpu:4`; None without one."""
    kind, _, number = device.partition(":")
    return int(number) if kind == "cpu" and number else None


_limiting = threading.RLock()


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Let torch use a number of CPU threads in the block; None leaves the number as it is.

    The number is that of the process, so blocks with a number follow one another. It is restored
    at the end; passes that other threads begin meanwhile use it, too.
    """
    import torch

    if count is None:
        yield
        return
    with _limiting:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def resolve_dtype(dtype: DtypeChoice, device: str) -> Dtype:
    """Return the number format to use; `auto` gives bfloat16 where it is fast, else float32.

    Args:
        dtype: number format: `auto`, `float32`, `bfloat16` or `float16`.
        device: name of a device, from `resolve_device`.

    Raises:
        NeuroscopeError: the name is unknown.
    """
    check_choice("dtype", dtype, choices(DtypeChoice))
    if dtype != "auto":
        return dtype
    return "bfloat16" if _is_fast_in_bfloat16(device) else "float32"


def in_float64(values: "torch.Tensor") -> "torch.Tensor":
    """Return values in float64: on their device or, as mps does not support it, on the CPU."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def tile_rows(device: str, dtype: Dtype) -> int:
    """Return the number of tokens per tile, to which batches are padded; 1 means no tiles.

    CPUs with AMX (matrix instructions of Intel) multiply bfloat16 in tiles of 16 rows. Batches of
    few widths, in complete tiles, are faster there, although more padding is computed. On other
    processors the padding costs more time than it saves.

    Args:
        device: type of a device, such as `cpu` or `cuda`.
        dtype: number format of the forward passes.
    """
    import torch

    if device != "cpu" or dtype != "bfloat16":
        return 1
    return 16 if torch.cpu.get_capabilities().get("amx_bf16") else 1


def _is_fast_in_bfloat16(device: str) -> bool:
    """Return whether the device has instructions for bfloat16."""
    import torch

    if device == "cpu":
        # without instructions that multiply bfloat16, conversions make it slower than float32
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    if device == "mps":
        return False
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _has_cuda(number: str) -> bool:
    """Return whether the CUDA GPU with a number exists; without a number, whether any exists."""
    import torch

    return torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count()


def _has_mps() -> bool:
    """Return whether this machine has an Apple GPU that torch can use."""
    import torch

    return bool(torch.backends.mps.is_available())
