"""Memory, reads and page faults of a process on Linux, and eviction from the page cache."""

import os
import re
import resource
from pathlib import Path


def evict(folder: Path) -> None:
    """Ask the system to drop the folder's weights from its page cache."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(process: int | str, field: str) -> float:
    """Return a field of a process's status, in GB; 0 once the process has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    match = re.search(rf"^{field}:\s+(\d+) kB", status, re.M)
    return int(match[1]) * 1024 / 1e9 if match else 0.0


def io_counts() -> dict[str, int]:
    """Return what this process has read and written, in bytes and calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(count) for name, count in (line.split(": ") for line in lines)}


def major_faults() -> int:
    """Return how often this process has waited for the storage to fill a page."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt
