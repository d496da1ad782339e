"""Runs a contender or a command in a separate process and measures its peak memory."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.contenders import OWN, Pooled
from benchmarks.drift_passes import DRIFT
from benchmarks.peers import PEERS
from benchmarks.prompts import read_texts

ROOT = Path(__file__).parents[1]
CHECKED = 100
"""Number of prompts, from the first, whose values a contender returns for comparison."""


@dataclass(frozen=True)
class Finished:
    """Measurements of a process that has ended."""

    code: int
    seconds: float
    peak: int
    """Bytes of resident memory."""
    last_line: str
    """Last line of standard error."""


@dataclass(frozen=True)
class Run:
    """The result of a contender."""

    seconds: float
    """Seconds of the timed part."""
    peak: int
    """Bytes of resident memory."""
    pooled: Pooled


class Failed(Exception):
    """A process has ended with an error; the message is one line of that error."""


def measure(command: list[str]) -> Finished:
    """Run a command from the root of the repository until it ends."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    unit = 1 if sys.platform == "darwin" else 1024
    peak = usage.ru_maxrss * unit
    return Finished(process.returncode, seconds, peak, lines[-1] if lines else "")


def run_contender(name: str, prompts: Path) -> Run:
    """Run a contender over a file of prompts.

    Raises:
        Failed: the contender ends with an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "outcome.safetensors"
        finished = measure([sys.executable, "-m", "benchmarks.child", name, str(prompts), str(out)])
        if finished.code:
            raise Failed(finished.last_line or f"exit code {finished.code}")
        pooled = load_file(out)
    return Run(float(pooled.pop("seconds")), finished.peak, pooled)


def _main(name: str, prompts: str, out: str) -> None:
    try:
        outcome = (OWN | DRIFT | PEERS)[name](read_texts(Path(prompts)))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}".splitlines()[0])
    first = {site: np.ascontiguousarray(rows[:CHECKED]) for site, rows in outcome.pooled.items()}
    save_file({"seconds": np.array(outcome.seconds), **first}, out)


if __name__ == "__main__":
    _main(*sys.argv[1:])
