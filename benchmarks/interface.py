"""Times of the interface: first page, prompt to answer, click to update, and 20 people at once.

The model of the clicks has random weights and as many neurons as one of 7 to 8 billion parameters.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.options import parser
from benchmarks.random_checkpoint import Shape, ensure_checkpoint
from benchmarks.tables import machine, publish, table, target

if TYPE_CHECKING:
    from playwright.sync_api import Page

HEADER = ("what", "median", "95 % within")
PEOPLE, READINGS = 20, 5
LAYERS = 32
CLICK = """async (canvas) => {
    const { width, height } = canvas.getBoundingClientRect();
    const place = () => ({ x: Math.random() * (width - 2), y: Math.random() * (height - 2) });
    const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
    const { left, top } = canvas.getBoundingClientRect();
    const { x, y } = place();
    const start = performance.now();
    for (const type of ["mousedown", "mouseup", "click"]) {
        canvas.dispatchEvent(new MouseEvent(type, { clientX: left + x, clientY: top + y }));
    }
    await frame();
    await new Promise((resolve) => setTimeout(resolve));  // after the browser has drawn the frame
    return performance.now() - start;
}"""
"""Click at random; return the milliseconds until it is drawn."""


@contextlib.contextmanager
def served(home: Path, model: str) -> Iterator[str]:
    """Yield the address of an interface that runs in a process of its own."""
    options = ("--port", "0", "--model", model, "--device", "cpu")
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "ui", *options],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"NEUROSCOPE_HOME": str(home)},
    )
    assert process.stdout is not None
    try:
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address is not None
        yield address[0]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()


def wide_model(folder: Path, neurons: int) -> str:
    """Write a model with 32 layers of some neurons each, and return its folder."""
    ensure_checkpoint(folder, Shape(LAYERS, 64, neurons, heads=4, kv_heads=4, vocabulary=1000))
    return str(folder)


def answers(address: str, count: int) -> list[float]:
    """Return the milliseconds from new prompts to the answer with the values of all layers."""
    times = []
    with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
        for number in range(1 + count):
            start = time.perf_counter()
            _read(client, number)
            times.append(1000 * (time.perf_counter() - start))
    return times[1:]


def _read(client: httpx.Client, number: int) -> list[str]:
    """Read two prompts as the page does, and return the texts in the answer."""
    prompts = [f"Nurse {number} said that {word} is tired." for word in ("he", "she")]
    body = {"model": "", "site": "mlp_act", "prompts": prompts, "top": 1}
    answer: dict[str, Any] = client.post("/api/probe", json=body).raise_for_status().json()
    for part in ("values", "z"):
        client.get(f"/api/probe/{answer['id']}/{part}").raise_for_status()
    texts = [prompt["text"] for prompt in answer["prompts"]]
    assert texts == prompts, "an answer belongs to other prompts"
    return texts


def together(address: str) -> list[float]:
    """Return the milliseconds that each reading takes if 20 people send theirs at once."""
    barrier = threading.Barrier(PEOPLE)

    def person(number: int) -> list[float]:
        times = []
        with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
            for reading in range(READINGS):
                barrier.wait()
                start = time.perf_counter()
                _read(client, 1000 * number + reading)
                times.append(1000 * (time.perf_counter() - start))
        return times

    with ThreadPoolExecutor(PEOPLE) as pool:
        return [value for times in pool.map(person, range(1, PEOPLE + 1)) for value in times]


@contextlib.contextmanager
def browser_page() -> "Iterator[Page]":
    """Yield a page of Chromium with the size of a laptop."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(300_000)
        yield page
        browser.close()


def first_page(address: str) -> tuple[list[float], int]:
    """Return the milliseconds until the page can be used, and the bytes that it loads."""
    times = []
    for _ in range(5):
        with browser_page() as page:
            start = time.perf_counter()
            page.goto(address)
            page.locator("#prompt-0").wait_for()
            times.append(1000 * (time.perf_counter() - start))
            size = page.evaluate(
                "performance.getEntries().reduce((sum, own) => sum + (own.transferSize || 0), 0)"
            )
    return times, int(size)


def clicks(address: str, count: int) -> list[float]:
    """Return the milliseconds from a click on the grid of a layer to its drawing."""
    with browser_page() as page:
        page.goto(f"{address}/")
        for index, text in enumerate(("w5 w6 w7", "w5 w8 w7")):
            page.fill(f"#prompt-{index}", text)
        page.get_by_role("button", name="Read the neurons").click()
        page.locator(".overview canvas").click(position={"x": 100, "y": 5})
        page.locator(".layer canvas").wait_for()
        grid = page.locator(".layer canvas")
        times = [grid.evaluate(CLICK) for _ in range(3 + count)]
    return times[3:]


def _row(name: str, times: list[float]) -> list[str]:
    middle, late = _median(times), _late(times)
    return [name, f"{middle:.0f} ms", f"{late:.0f} ms"]


def _median(times: list[float]) -> float:
    return quantiles(times, n=2)[0]


def _late(times: list[float]) -> float:
    return quantiles(times, n=20, method="inclusive")[-1]


def main() -> None:
    """Measure, and print the table."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=30, help="answers and clicks of each kind")
    count = options.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        with served(Path(folder) / "minilm", "minilm") as address:
            answered = answers(address, count)
            crowd = together(address)
            first, size = first_page(address)
        clicked = {}
        for neurons in (4096, 14336):
            home = Path(folder) / str(neurons)
            model = wide_model(home / "model", neurons)
            with served(home, model) as address:
                clicked[neurons] = clicks(address, count)
    rows = [
        _row("first page, until a prompt can be typed", first),
        _row("two prompts to minilm, all values received", answered),
        _row(f"the same, {PEOPLE} people at the same moment", crowd),
        *(
            _row(f"click to update, {LAYERS} layers of {neurons:,} neurons", times)
            for neurons, times in clicked.items()
        ),
    ]
    slowest_tenth = quantiles(crowd, n=10, method="inclusive")[-1]
    content = "\n\n".join(
        [
            table(HEADER, rows),
            target("first page, ms", _median(first), most=1000),
            target("first page, kB", size / 1000, most=300),
            target("two prompts to minilm, median, ms", _median(answered), most=300),
            target(f"the slowest tenth of {PEOPLE} people, ms", slowest_tenth, most=2000),
            target("click to update, 4,096 neurons, ms", _median(clicked[4096]), most=50),
            machine("fastapi"),
        ]
    )
    publish("interface", content, write=options.parse_args().write)


if __name__ == "__main__":
    main()
