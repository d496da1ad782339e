"""What the interface refuses: other hosts and websites, missing tokens, large and many requests."""

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from neuroscope.errors import NeuroscopeError
from neuroscope.web.app import create_app
from neuroscope.web.guard import COOKIE
from neuroscope.web.settings import Limits, Settings

ADDRESS = "http://127.0.0.1:5090"
TOKEN = "a secret"


def client_of(settings=Settings(), address=ADDRESS):  # noqa: B008  a frozen value
    return TestClient(create_app(settings), base_url=address)


@pytest.mark.parametrize("address", [ADDRESS, "http://localhost:5090", "http://[::1]:5090"])
def test_names_of_this_machine_are_answered(address):
    assert client_of(address=address).get("/api/health").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:5090", "", "0.0.0.0"])
def test_other_names_are_refused(host):
    answer = client_of().get("/api/health", headers={"Host": host})
    assert answer.status_code == 403 and answer.json()["remedy"]
    proxied = {"behind_proxy": True, "models": ("minilm",)}
    allowed = client_of(Settings(allowed_hosts=("Evil.example",), **proxied))
    assert (allowed.get("/", headers={"Host": host}).status_code == 200) == (host == "evil.example")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_requests_of_other_websites_are_refused(method, headers):
    address = {"POST": "/api/sessions", "DELETE": "/api/jobs/12345678"}[method]
    answer = client_of().request(method, address, headers=headers, json={"id": "x"})
    assert answer.status_code == 403 and "another website" in answer.json()["error"]


def test_requests_of_the_own_page_and_of_programs_are_answered():
    client = client_of()
    own = {"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}
    assert client.delete("/api/jobs/12345678", headers=own).status_code == 204
    assert client.delete("/api/jobs/12345678").status_code == 204


def test_a_form_of_another_website_is_no_request():
    answer = client_of().post("/api/sessions", data={"id": "x"})
    assert answer.status_code == 422


def test_a_token_is_asked_for():
    client = client_of(Settings(token=TOKEN))
    assert client.get("/api/health").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"{COOKIE}=wrong"}):
        answer = client.get("/", headers=headers)
        assert answer.status_code == 401 and TOKEN not in answer.text
    assert client.get("/", params={"token": "wrong"}).status_code == 401
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/api/openapi.json", headers=bearer).status_code == 200
    login = client.get("/sessions", params={"token": TOKEN}, follow_redirects=False)
    assert login.status_code == 303 and login.headers["location"] == "/sessions"
    shared = {"token": TOKEN, "p": ["a b", "c"], "show": "z"}
    deep = client.get(f"{ADDRESS}//evil.example/m", params=shared, follow_redirects=False)
    assert deep.headers["location"] == "/evil.example/m?p=a+b&p=c&show=z"
    cookie = login.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie
    assert client.get("/sessions").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "example.org"])
def test_other_machines_need_a_token_or_a_proxy_and_a_list_of_models(host):
    with pytest.raises(NeuroscopeError, match="not protected"):
        Settings(host=host, models=("minilm",))
    for protection in ({"token": TOKEN}, {"behind_proxy": True}):
        with pytest.raises(NeuroscopeError, match="any model"):
            Settings(host=host, **protection)
        assert not Settings(host=host, models=("minilm",), **protection).is_local


@pytest.mark.parametrize("others", [{"allowed_hosts": ("lab.example",)}, {"behind_proxy": True}])
def test_a_proxy_on_this_machine_lets_others_in_and_needs_the_same(others):
    with pytest.raises(NeuroscopeError, match=r"not protected|any model"):
        Settings(**others)
    Settings(token=TOKEN, models=("minilm",), **others)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_neither(host):
    assert Settings(host=host).is_local
    client = client_of(Settings(host=host), address=f"http://{Settings(host=host).shown_host}")
    assert client.get("/api/health").status_code == 200


def test_a_proxy_may_pass_another_port():
    settings = Settings(allowed_hosts=("lab.example",), behind_proxy=True, models=("minilm",))
    client = client_of(settings, address="http://lab.example")
    own = {"Origin": "https://lab.example:8443"}
    assert client.delete("/api/jobs/12345678", headers=own).status_code == 204
    other = {"Origin": "https://evil.example:8443"}
    assert client.delete("/api/jobs/12345678", headers=other).status_code == 403


@pytest.mark.parametrize("headers", [{"Origin": "http://[x"}, {"Content-Length": "abc"}])
def test_broken_headers_are_refused(headers):
    answer = client_of().post("/api/sessions", json={"id": "x"}, headers=headers)
    assert answer.status_code in (403, 413) and answer.json()["error"]


def test_a_token_has_to_be_ascii():
    with pytest.raises(NeuroscopeError, match="ASCII"):
        Settings(token="€")


def test_large_bodies_are_refused_whether_their_size_is_declared_or_not():
    client = client_of(Settings(limits=Limits(body=1000)))

    def parts():
        for _ in range(10):
            yield b" " * 500

    for content in (b" " * 1001, parts()):
        headers = {"Content-Type": "application/json"}
        answer = client.post("/api/sessions", content=content, headers=headers)
        assert answer.status_code == 413 and "1,000 bytes" in answer.json()["error"]


def test_too_many_requests_are_refused_for_a_minute(monkeypatch):
    client = client_of(Settings(limits=Limits(requests_per_minute=5)))
    statuses = [client.get("/api/openapi.json").status_code for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2
    assert client.get("/api/health").status_code == 200
    from neuroscope.web import guard

    later = guard._now() + 61
    monkeypatch.setattr(guard, "_now", lambda: later)
    assert client.get("/api/openapi.json").status_code == 200


def test_pages_may_load_nothing_from_elsewhere():
    answer = client_of().get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_names_of_models_are_escaped_in_the_page():
    hostile = '</script><script>alert("x")</script>'
    page = client_of(replace(Settings(), models=(hostile,), default_model=hostile)).get("/").text
    assert hostile not in page and "alert" in page
