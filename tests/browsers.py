"""Chromium for tests, and waiting for servers."""

import os
import shutil
import socket
import time
from contextlib import ExitStack, contextmanager

import pytest
from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()


def find_browser(names):
    """Return the path of a browser; without one, skip the test, or fail it in CI."""
    for name in names:
        if path := shutil.which(name):
            return path
    missing("no browser; install one with `make chromium`")


def missing(reason):
    """Skip a test that needs what this machine does not have; fail it in CI."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@contextmanager
def open_browser():
    """Yield Chromium, until the block ends."""
    path = find_browser(BROWSERS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def open_page(**options):
    """Yield a page of Chromium; the options are those of a context of Playwright."""
    with open_browser() as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 1000}, **options)
        page = context.new_page()
        page.set_default_timeout(60_000)
        yield page


def free_ports(*names):
    """Return a free port for each name."""
    with ExitStack() as open_sockets:
        sockets = {name: open_sockets.enter_context(socket.socket()) for name in names}
        for unbound in sockets.values():
            unbound.bind(("127.0.0.1", 0))
        return {name: bound.getsockname()[1] for name, bound in sockets.items()}


def wait_for(ready, limit=120):
    """Call `ready` until its result is true; return that result."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if result := ready():
            return result
        time.sleep(0.2)
    raise AssertionError(f"nothing after {limit} seconds")
