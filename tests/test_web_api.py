"""The interface's API: probes against Hugging Face's values, sessions, errors and limits."""

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from transformers import AutoModel, AutoTokenizer

from neuroscope import Tracker
from neuroscope.web.app import create_app
from neuroscope.web.settings import Limits, Settings

PROMPTS = ["the cat sits on the mat .", "the dog sits on the mat ."]
ADDRESS = "http://127.0.0.1"


def client_of(settings):
    return TestClient(create_app(settings), base_url=ADDRESS, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def folder(family_folder):
    return str(family_folder("bert"))


@pytest.fixture
def settings(folder):
    return Settings(default_model=folder, device="cpu", dtype="float32")


@pytest.fixture
def client(settings):
    return client_of(settings)


@pytest.fixture
def probed(client):
    answer = client.post("/api/probe", json={"prompts": PROMPTS, "site": "resid_post"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def expected_means(folder):
    """Return the mean hidden state of each prompt's content tokens, (layers, prompts, neurons)."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    means = []
    for text in PROMPTS:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        means.append([own[0, 1:-1].mean(dim=0).numpy() for own in states.hidden_states[1:]])
    return np.array(means).transpose(1, 0, 2)


def arrays(answer):
    shape = tuple(map(int, answer.headers["X-Shape"].split(",")))
    return np.frombuffer(answer.content, "<f4").reshape(shape)


def test_the_values_are_those_of_the_model(client, probed, folder):
    expected = expected_means(folder)
    assert probed["layers"] == [0, 1] and probed["model"] == folder
    assert probed["neurons"] == expected.shape[2]
    address = f"/api/probe/{probed['id']}/values"
    np.testing.assert_allclose(arrays(client.get(address)), expected, rtol=1e-4, atol=1e-5)
    for layer in (0, 1):
        found = arrays(client.get(address, params={"layer": layer}))
        np.testing.assert_allclose(found, expected[layer], rtol=1e-4, atol=1e-5)


def test_the_strongest_neurons_and_tokens_agree_with_the_values(client, probed):
    z = arrays(client.get(f"/api/probe/{probed['id']}/z"))
    means = arrays(client.get(f"/api/probe/{probed['id']}/values"))
    for own in probed["top"]:
        sizes = np.abs(z[own["layer"]]).max(axis=0)
        units = [neuron["unit"] for neuron in own["neurons"]]
        assert sorted(sizes[units], reverse=True) == sorted(sizes, reverse=True)[:10]
        first = own["neurons"][0]
        assert first["neuron"] == f"resid_post.{own['layer']}.{first['unit']}"
        np.testing.assert_allclose(first["z"], z[own["layer"], :, first["unit"]], rtol=1e-6)
        tokens = client.get(
            f"/api/probe/{probed['id']}/tokens", params={"neuron": first["neuron"]}
        ).json()
        for index, prompt in enumerate(probed["prompts"]):
            content = [not token["special"] for token in prompt["tokens"]]
            mean = np.array(tokens["values"][index])[content].mean()
            assert mean == pytest.approx(means[own["layer"], index, first["unit"]], rel=1e-4)


def test_prompts_are_compared_layer_by_layer(probed):
    rows = [row for row in probed["comparison"] if row["view"] == "span"]
    assert [row["layer"] for row in rows] == [0, 1]
    assert all(row["a"] == PROMPTS[0] and -1 <= row["cosine"] <= 1 for row in rows)


def test_a_single_prompt_and_a_template(client):
    one = client.post("/api/probe", json={"prompts": PROMPTS[:1]}).json()
    assert one["comparison"] == [] and one["site"] == "mlp_act"
    body = {"prompts": ["cat", "dog"], "template": "the {} sits on the mat ."}
    filled = client.post("/api/probe", json=body).json()
    assert [prompt["text"] for prompt in filled["prompts"]] == PROMPTS


def test_a_session_is_saved_listed_read_and_exported(database, client, probed):
    neuron = probed["top"][1]["neurons"][0]
    body = {"id": probed["id"], "watch": [neuron["neuron"]], "note": "why <b>"}
    run_id = client.post("/api/sessions", json=body).json()["run_id"]
    (item,) = client.get("/api/sessions").json()
    assert (item["run_id"], item["prompts"], item["watched"]) == (run_id, 2, 1)
    assert item["note"] == "why <b>" and item["name"].endswith("cat vs dog")
    assert client.get("/api/sessions", params={"search": "WHY"}).json() == [item]
    assert client.get("/api/sessions", params={"search": "else"}).json() == []

    assert client.get("/api/sessions", params={"search": "sits on"}).json() == [item]
    session = client.get(f"/api/sessions/{run_id}").json()
    assert session.pop("links") == {}
    assert session["prompts"] == PROMPTS and session["version"] == 1
    assert session["watched"][0]["z"] == pytest.approx(neuron["z"])
    export = f"/api/sessions/{run_id}/export"
    assert client.get(export).json() == session
    frame = pd.read_csv(io.StringIO(client.get(export, params={"format": "csv"}).text))
    assert frame["z"].tolist() == pytest.approx(neuron["z"])
    parquet = client.get(export, params={"format": "parquet"})
    pd.testing.assert_frame_equal(
        pd.read_parquet(io.BytesIO(parquet.content)), frame, check_dtype=False
    )
    picture = client.get(export, params={"format": "png"})
    with Image.open(io.BytesIO(picture.content)) as image:
        assert image.format == "PNG" and image.width > 500
    report = Tracker.connect().artifact(run_id, "report.html").read_text(encoding="utf-8")
    assert neuron["neuron"] in report and "why &lt;b&gt;" in report and "<b>" not in report


REFUSED = [
    ({"prompts": []}, 422),
    ({"prompts": [" "]}, 400),
    ({"prompts": ["a"], "site": "mlp"}, 400),
    ({"prompts": ["a"], "layers": "7"}, 400),
    ({"prompts": ["a"], "model": "no-such-model"}, 400),
    ({"prompts": ["a"], "template": "none"}, 400),
    ({"prompts": ["the cat", "the cat"]}, 400),
    ({"prompts": ["the cat " * 300]}, 400),
    ({"prompts": ["a" * 30_000]}, 400),
    ({"prompts": ["a"] * 65}, 400),
    ({"prompts": ["a"], "else": 1}, 422),
    ({"prompts": "a"}, 422),
    ({"prompts": ["a"], "job": "!"}, 422),
]


@pytest.mark.parametrize("body, status", REFUSED)
def test_bad_requests_are_refused_with_a_remedy(client, body, status):
    answer = client.post("/api/probe", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error", "remedy"} and answer.json()["error"]


@pytest.mark.parametrize(
    "body", [b'{"prompts": ["\\ud800"]}', b"{", b"[]", b'{"prompts": ["a"], "model": "\\u0000"}']
)
def test_bodies_that_are_no_request_are_refused(client, body):
    answer = client.post("/api/probe", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500 and answer.json()["error"]


def test_what_is_not_there_is_not_found(database, client, probed):
    own = f"/api/probe/{probed['id']}"
    refused = {
        "/api/probe/none": 404,
        "/api/probe/none/values?layer=0": 404,
        f"{own}/values?layer=9": 400,
        f"{own}/values?layer=x": 422,
        f"{own}/z?layer=9": 400,
        f"{own}/tokens?neuron=resid_post.0.9999": 400,
        f"{own}/tokens?neuron=mlp_act.0.0": 400,
        f"{own}/tokens?neuron=x": 400,
        "/api/jobs/none": 404,
        f"/api/sessions/{'0' * 32}": 404,
        f"{own}/tokens?neuron=mlp_act.0.{'9' * 60}": 400,
        f"{own}/tokens?neuron=mlp_act.{'9' * 5000}.1": 422,
        "/api/nothing": 404,
    }
    for address, status in refused.items():
        answer = client.get(address)
        assert answer.status_code == status, (address, answer.text)
        assert answer.json().keys() == {"error", "remedy"}
    body = {"id": probed["id"], "watch": ["mlp_act.0.0"]}
    assert client.post("/api/sessions", json=body).status_code == 400
    assert Tracker.connect().find_runs("probe", status=["FINISHED", "FAILED", "RUNNING"]) == []


def test_mlflow_that_does_not_answer_is_told(client, probed, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    answer = client.post("/api/sessions", json={"id": probed["id"]})
    assert answer.status_code == 424 and "127.0.0.1:9" in answer.json()["error"]


def test_probes_leave_memory_in_the_order_of_their_last_use(settings):
    client = client_of(replace(settings, limits=Limits(kept_bytes=1)))
    first, second = (
        client.post("/api/probe", json={"prompts": [text]}).json()["id"] for text in PROMPTS
    )
    assert client.get(f"/api/probe/{first}").status_code == 404
    assert client.get(f"/api/probe/{second}").status_code == 200


def test_only_models_of_the_list_may_be_used(folder, family_folder):
    client = client_of(Settings(models=(folder,), default_model=folder, device="cpu"))
    assert client.post("/api/probe", json={"prompts": ["a"]}).status_code == 200
    other = {"prompts": ["a"], "model": str(family_folder("llama"))}
    answer = client.post("/api/probe", json=other)
    assert answer.status_code == 400 and "may not be used" in answer.json()["error"]


def test_the_health_tells_what_is_loaded(client, probed, folder):
    health = client.get("/api/health").json()
    assert health["status"] == "ok" and health["models"] == [folder] and health["waiting"] == 0


def test_every_request_is_described(client):
    document = client.get("/api/openapi.json").json()
    assert {"/api/probe", "/api/probe/{id}/values", "/api/sessions"} <= document["paths"].keys()
    page = client.get("/api").text
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in page
            assert operation["description"] or operation["summary"], path
    assert "http" not in json.dumps(document["paths"])


def test_values_that_take_too_much_memory_are_refused(settings):
    client = client_of(replace(settings, limits=Limits(probe_bytes=5_000)))
    answer = client.post("/api/probe", json={"prompts": PROMPTS})
    assert answer.status_code == 413 and "5.0 kB" in answer.json()["error"], answer.text
    assert client.post("/api/probe", json={"prompts": ["cat"], "layers": "0"}).status_code == 200


def test_silencing_neurons_changes_the_output(client):
    probed = client.post("/api/probe", json={"prompts": PROMPTS, "site": "mlp_act"}).json()
    names = [own["neuron"] for own in probed["top"][0]["neurons"]]
    address = f"/api/probe/{probed['id']}/silence"
    one = client.post(address, json={"neurons": names[:1]}).json()
    all_of_them = client.post(address, json={"neurons": names, "mode": "zero"}).json()
    assert one["measure"] == "representation" and len(one["changes"]) == len(PROMPTS)
    assert min(one["changes"]) > 0 and sum(all_of_them["changes"]) > sum(one["changes"])
    assert client.post(address, json={"neurons": ["mlp_act.0.9999"]}).status_code == 400
    assert client.get("/api/health").json()["models"] == [probed["model"]]  # loaded once
