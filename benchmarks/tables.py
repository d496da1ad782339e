"""Markdown tables, and the sections of docs/performance.md that they are written into."""

import datetime
import math
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PERFORMANCE = Path(__file__).parents[1] / "docs" / "performance.md"
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "pyarrow")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1) -> str:
    """Return a Markdown table whose first `names` columns hold text and the others numbers."""
    rule = ["---"] * names + ["---:"] * (len(header) - names)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def target(
    quantity: str, value: float, *, least: float = 0, most: float = math.inf, note: str = ""
) -> str:
    """Return a line that says whether a value, as it is printed, meets its target."""
    bound = f"at most {most:.2f}" if least == 0 else f"at least {least:g}"
    met = "met" if least <= round(value, 2) <= most else "not met"
    return f"- {quantity}: {value:.2f} (target: {bound}; {met}{note})"


def publish(section: str, content: str, *, write: bool) -> None:
    """Print the results of a benchmark; if asked to, write them into docs/performance.md."""
    print(content)
    if write:
        write_section(PERFORMANCE, section, content)


def write_section(path: Path, section: str, content: str) -> None:
    """Replace the text between `<!-- bench:section -->` and `<!-- /bench:section -->`.

    Raises:
        ValueError: the file has no such section.
    """
    start, end = f"<!-- bench:{section} -->", f"<!-- /bench:{section} -->"
    before, opened, rest = path.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"{path} has no section {start} ... {end}")
    path.write_text(f"{before}{start}\n{content}\n{end}{after}", encoding="utf-8")


def machine(*libraries: str) -> str:
    """Return a line on this machine and the versions of the usual and of further libraries."""
    flags = cpu_flags()
    gigabytes = psutil.virtual_memory().total / 1e9
    parts = [
        _cpu("model name") or platform.processor() or platform.machine(),
        f"{os.cpu_count()} cores ({', '.join(_supported(flags))})",
        f"{gigabytes:.0f} GB of memory",
        f"Python {platform.python_version()}",
        *_versions([*_LIBRARIES, *libraries]),
    ]
    return f"Measured on {datetime.date.today()}: {', '.join(parts)}."


def cpu_flags() -> list[str]:
    """Return the instruction sets of this machine's processor, as Linux names them."""
    return _cpu("flags").split()


def _supported(flags: list[str]) -> list[str]:
    """Return the instruction sets that matter for speed, with `no` before missing ones."""
    return [flag if flag in flags else f"no {flag}" for flag in _FLAGS]


def _cpu(field: str) -> str:
    """Return a field of the first core in /proc/cpuinfo, or an empty text without that file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _versions(libraries: Sequence[str]) -> list[str]:
    """Return `name version` of each installed library."""
    versions = []
    for library in libraries:
        try:
            versions.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    return versions
