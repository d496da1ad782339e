"""The queue of the interface: many who wait, those who cancel, and those who go."""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest
import uvicorn
from test_web_api import PROMPTS, arrays, client, client_of, folder, probed, settings

from neuroscope.web.app import create_app
from neuroscope.web.jobs import Cancelled, Job
from neuroscope.web.settings import Limits

__all__ = ["client", "folder", "probed", "settings"]


async def stays():
    """Return whether the client has gone."""
    return False


def hold(worker, model, release):
    """Let the worker wait for an event in a thread, which is returned once it does."""
    started = threading.Event()

    def task(model, job):
        started.set()
        release.wait(60)

    def run():
        asyncio.run(worker.run(model, Job(), task, client=stays))

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(60)
    return thread


def wait_until(ready, seconds=60):
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_many_who_wait_leave_the_server_free_for_others(settings):
    app = create_app(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    release = threading.Event()
    worker, count = app.state.worker, 60  # more than the threads of the server
    holding = hold(worker, settings.default_model, release)

    def ask(number):
        texts = [f"the cat {'sits ' * (1 + number % 5)}.", f"the dog {number} ."]
        answer = httpx.post(f"{address}/api/probe", json={"prompts": texts}, timeout=120).json()
        return [prompt["text"] for prompt in answer["prompts"]] == texts

    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(ask, number) for number in range(count)]
        wait_until(lambda: worker.waiting == count)
        health = httpx.get(f"{address}/api/health", timeout=20).json()
        page = httpx.get(f"{address}/static/app.js", timeout=20)
        release.set()
        assert all(future.result() for future in asked)
    assert health["waiting"] == count and page.status_code == 200
    holding.join()
    server.should_exit = True
    thread.join(30)


def test_a_client_that_goes_leaves_the_queue(client, probed):
    async def gone():
        return True

    worker, release = client.app.state.worker, threading.Event()
    holding = hold(worker, probed["model"], release)
    job = Job()
    with pytest.raises(Cancelled):
        asyncio.run(worker.run(probed["model"], job, lambda model, job: None, client=gone))
    assert job.cancelled.is_set()
    release.set()
    holding.join()


def test_too_many_who_wait_are_refused(settings):
    client = client_of(replace(settings, limits=Limits(waiting=1)))
    worker, release = client.app.state.worker, threading.Event()
    holding = hold(worker, settings.default_model, release)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/api/probe", json={"prompts": ["the cat"]})
        wait_until(lambda: worker.waiting == 1)
        second = client.post("/api/probe", json={"prompts": ["the dog"]})
        release.set()
        assert first.result().status_code == 200
    assert second.status_code == 429 and "in a minute" in second.json()["remedy"]
    holding.join()


def test_a_request_that_waits_can_be_cancelled(client, probed):
    worker, release = client.app.state.worker, threading.Event()
    holding = hold(worker, probed["model"], release)
    with ThreadPoolExecutor(1) as pool:
        body = {"prompts": PROMPTS, "job": "12345678"}
        waiting = pool.submit(client.post, "/api/probe", json=body)
        wait_until(lambda: client.get("/api/jobs/12345678").status_code == 200)
        assert client.get("/api/jobs/12345678").json()["stage"] == "waiting"
        assert client.delete("/api/jobs/12345678").status_code == 204
        answer = waiting.result()  # at once: the worker is still held
    release.set()
    holding.join()
    assert answer.status_code == 409 and "cancelled" in answer.json()["error"]
    assert client.get("/api/jobs/12345678").status_code == 404


def test_twenty_people_at_once_get_their_own_results(client):
    def ask(number):
        texts = [f"the cat {'sits ' * number}.", f"the dog {'sits ' * number}."]
        answer = client.post("/api/probe", json={"prompts": texts}).json()
        values = arrays(client.get(f"/api/probe/{answer['id']}/values"))
        return [prompt["text"] for prompt in answer["prompts"]] == texts, values

    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(ask, range(1, 21)))
    assert all(own for own, _ in together)
    for number in (1, 20):
        np.testing.assert_array_equal(together[number - 1][1], ask(number)[1])
