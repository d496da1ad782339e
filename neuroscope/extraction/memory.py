"""How much memory is free on a device, and giving back what is not in use."""

import ctypes
from pathlib import Path

_CGROUPS = (
    (".", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Version 2 and 1 of Linux's control groups: folder, file of the limit, file of the use, and the
line of memory.stat with the part of the use that is cache, given back when it is needed."""


def free_memory(device: str = "cpu", cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can still be taken on a device; on the CPU within the container's limit."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return min([psutil.virtual_memory().available, *_left_to_container(cgroups)])


def give_back_memory() -> None:
    """Hands what this process has freed back to the system, where its C library can (glibc).

    Tensors of ever other sizes leave gaps behind, and the process would grow as long as it runs.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return  # another C library


def _left_to_container(cgroups: Path) -> list[int]:
    """Bytes below the container's limit; nothing where there is no limit."""
    for folder, limit, use, cache in _CGROUPS:
        try:
            total = int((cgroups / folder / limit).read_text())
            used = int((cgroups / folder / use).read_text())
            lines = (cgroups / folder / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # not this version, or the limit is "max"
            continue
        spare = dict(line.split() for line in lines).get(cache, "0")
        return [max(0, total - used + int(spare))]
    return []
