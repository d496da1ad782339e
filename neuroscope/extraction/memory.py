"""How much memory is free on a device, and keeping this process small while it works."""

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class _CgroupFiles:
    """Where one version of Linux's control groups keeps its figures."""

    folder: str  # below the root of all of them
    controller: str  # as /proc/self/cgroup names it
    limit: str
    use: str
    cache: tuple[str, ...]  # lines of memory.stat: what of the use is given back when it is needed


_VERSIONS = (
    _CgroupFiles(".", "", "memory.max", "memory.current", ("inactive_file", "active_file")),
    _CgroupFiles(
        "memory",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)
_KERNELS = 32  # a batch needs some ten of them


def free_memory(
    device: str = "cpu",
    cgroups: Path = Path("/sys/fs/cgroup"),
    own: Path = Path("/proc/self/cgroup"),
) -> int:
    """Bytes that can still be taken on a device.

    On the CPU, whose memory an Apple GPU shares, within the limits of this process's control group
    and of those around it, such as those of a container or a batch system's job.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return min([psutil.virtual_memory().available, *_left_to_cgroups(cgroups, own)])


def keep_few_kernels() -> None:
    """Keeps oneDNN, which multiplies matrices on the CPU, from growing with the work it has done.

    It and torch's layer above it each keep a kernel for every shape of batch that they have met,
    1,024 of them unless they are told otherwise, which takes 100 MB in the end and makes nothing
    faster where shapes seldom return. Heeded if nothing was computed in this process before; a
    setting of the user's own stays.
    """
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(_KERNELS))


def give_back_memory() -> None:
    """Hands what this process has freed back to the system, where its C library can (glibc).

    Tensors of ever other sizes leave gaps behind, and the process would grow as long as it runs.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return  # another C library


def _left_to_cgroups(cgroups: Path, own: Path) -> Iterator[int]:
    """Bytes below each limit that holds for this process; none where there is no limit."""
    for version in _VERSIONS:
        group = _own_group(own, version.controller)
        for one in (group, *group.parents):
            folder = cgroups / version.folder / one.relative_to("/")
            try:
                total = int((folder / version.limit).read_text())
                used = int((folder / version.use).read_text())
                lines = (folder / "memory.stat").read_text().splitlines()
            except (OSError, ValueError):  # not this version, not seen from here, or "max"
                continue
            figures = dict(line.split() for line in lines)
            spare = sum(int(figures.get(name, 0)) for name in version.cache)
            yield max(0, total - used + spare)


def _own_group(own: Path, controller: str) -> PurePosixPath:
    """This process's control group, as a path from the root of all of them."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    for line in lines:  # such as 4:memory:/jobs/17, or 0::/jobs/17 in version 2
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return PurePosixPath(path)
    return PurePosixPath("/")
