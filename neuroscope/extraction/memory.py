"""Free memory of a device, and limits on the memory that this process keeps."""

import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class _CgroupFiles:
    """Files in which one version of Linux control groups (cgroups) reports memory."""

    folder: str  # relative to the root of all control groups
    controller: str  # name of the memory controller in /proc/self/cgroup
    limit: str
    usage: str
    cache: tuple[str, ...]  # keys of memory.stat: memory in use that is freed on demand


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
_KERNELS = 32  # kernels that each cache holds; a batch needs about ten


def free_memory(
    device: str = "cpu",
    cgroups: Path = Path("/sys/fs/cgroup"),
    own: Path = Path("/proc/self/cgroup"),
) -> int:
    """Return the memory that can still be allocated on a device, in bytes.

    On the CPU, and on an Apple GPU, which shares the CPU's memory, the result respects the limits
    of this process's control group and its parents, such as those of a container or a batch job.

    Args:
        device: `cpu`, `mps`, or a CUDA device such as `cuda:1`.
        cgroups: root of all control groups.
        own: file that lists the control groups of this process.
    """
    if device.startswith("cuda"):
        import torch

        # torch keeps what models that are gone have used, and gives it to the next one
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    import psutil

    return min([psutil.virtual_memory().available, *_left_to_cgroups(cgroups, own)])


def keep_few_kernels() -> None:
    """Limit the number of matrix-multiplication kernels that oneDNN and torch cache on the CPU.

    Each caches one kernel per shape of batch, up to 1,024 by default. That takes up to 100 MB, and
    is no faster where shapes seldom repeat. The limit has no effect if this process has already
    computed something, and it does not override settings of the user.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, str(_KERNELS))


def give_back_memory() -> None:
    """Return freed memory to the system, if the C library supports this, as glibc does.

    Tensors of varying size fragment the heap; without this call, the process would keep growing.
    pyarrow has a heap of its own.
    """
    if pyarrow := sys.modules.get("pyarrow"):
        pyarrow.default_memory_pool().release_unused()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return  # another C library


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out; torch has an exception of its own for CUDA only."""
    messages = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(message in str(error) for message in messages)


def _left_to_cgroups(cgroups: Path, own: Path) -> Iterator[int]:
    """Yield the bytes that each limit on this process leaves, or nothing if there is no limit."""
    for version in _VERSIONS:
        group = _own_group(own, version.controller)
        for path in (group, *group.parents):
            folder = cgroups / version.folder / path.relative_to("/")
            try:
                limit = int((folder / version.limit).read_text())
                used = int((folder / version.usage).read_text())
                lines = (folder / "memory.stat").read_text().splitlines()
            except (OSError, ValueError):  # another version, not visible from here, or "max"
                continue
            statistics = dict(line.split() for line in lines)
            cached = sum(int(statistics.get(name, 0)) for name in version.cache)
            yield max(0, limit - used + cached)


def _own_group(own: Path, controller: str) -> PurePosixPath:
    """Return the path of this process's control group, from the root of all control groups."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:  # such as "4:memory:/jobs/17", or "0::/jobs/17" in version 2
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return PurePosixPath(path)
    return PurePosixPath("/")
