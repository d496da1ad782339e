"""What this machine computes on: the device, and the number format that it is fast in."""

from neuroscope.errors import ModelError

DTYPES = ("auto", "float32", "bfloat16", "float16")


def resolve_device(device: str) -> str:
    """The device that is meant.

    Args:
        device: `auto` (a GPU if there is one), `cpu`, `cpu:4` (four threads of it), `cuda`,
            `cuda:1`, `mps`, or `all` (the model's layers spread over all GPUs).

    Raises:
        ModelError: there is no such device.
    """
    import torch

    kind, _, number = device.partition(":")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"
    if kind == "cpu":
        if number:
            torch.set_num_threads(_threads(device, number))
        return "cpu"
    if device == "all" or kind == "cuda":
        there = torch.cuda.is_available() and (not number or _has_cuda(number))
    elif device == "mps":
        there = _has_mps()
    else:
        raise ModelError(
            f"unknown device '{device}': it is auto, cpu, cpu:4, cuda, cuda:1, mps or all"
        )
    if not there:
        raise ModelError(
            f"device '{device}' cannot be used: this machine has none; choose cpu or auto"
        )
    return device


def resolve_dtype(dtype: str, device: str) -> str:
    """The number format that is meant; `auto` is bfloat16 where the device is fast in it.

    Args:
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: resolved.

    Raises:
        ModelError: the name is unknown.
    """
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype '{dtype}': it is one of {', '.join(DTYPES)}")
    if dtype != "auto":
        return dtype
    return "bfloat16" if _is_fast_in_bfloat16(device) else "float32"


def _is_fast_in_bfloat16(device: str) -> bool:
    import torch

    if device == "cpu":
        # the instructions that multiply bfloat16; without them it is widened first, and slower
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    if device == "mps":
        return False
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _threads(device: str, number: str) -> int:
    if not number.isdecimal() or int(number) < 1:
        raise ModelError(f"unknown device '{device}': cpu:4 is a CPU with four threads")
    return int(number)


def _has_cuda(number: str) -> bool:
    import torch

    return number.isdecimal() and int(number) < torch.cuda.device_count()


def _has_mps() -> bool:
    import torch

    return bool(torch.backends.mps.is_available())
