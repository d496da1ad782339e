"""Runs one contender, or any command, in a process of its own: clean memory, measured peak."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.contenders import OWN, Pooled
from benchmarks.peers import PEERS
from benchmarks.prompts import read_texts

ROOT = Path(__file__).parents[1]
CHECKED = 100
"""Prompts, from the first, whose values a contender hands back to be compared."""


@dataclass(frozen=True)
class Ended:
    """A process that has ended; `last_line` is what it last wrote to its standard error."""

    code: int
    seconds: float
    peak: int  # bytes of resident memory
    last_line: str


@dataclass(frozen=True)
class Run:
    """What one contender gave."""

    seconds: float  # of the timed part alone
    peak: int
    pooled: Pooled


class Failed(Exception):
    """A process ended with an error; the message is the error's first line."""


def measure(command: list[str]) -> Ended:
    """Waits for a command, from the repository's root, and asks what memory it took."""
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    unit = 1 if sys.platform == "darwin" else 1024
    return Ended(process.returncode, seconds, usage.ru_maxrss * unit, lines[-1] if lines else "")


def run_contender(name: str, prompts: Path) -> Run:
    """Runs a contender over a file of prompts.

    Raises:
        Failed: it could not.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "outcome.npz"
        ended = measure([sys.executable, "-m", "benchmarks.child", name, str(prompts), str(out)])
        if ended.code:
            raise Failed(ended.last_line or f"ended with code {ended.code}")
        with np.load(out) as found:
            pooled = dict(found)
    return Run(float(pooled.pop("seconds")), ended.peak, pooled)


def _main(name: str, prompts: str, out: str) -> None:
    try:
        outcome = (OWN | PEERS)[name](read_texts(Path(prompts)))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}".splitlines()[0])
    first = {site: values[:CHECKED] for site, values in outcome.pooled.items()}
    np.savez(out, seconds=outcome.seconds, **first)


if __name__ == "__main__":
    _main(*sys.argv[1:])
