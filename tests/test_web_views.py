"""The interface's API for atlases, drift and flows."""

import io

import numpy as np
import pyarrow as pa
import pytest
from atlased import WORDS, topical_rows, write_rows
from drifting import changed, drift, labelled
from fastapi.testclient import TestClient
from models import make_model

import neuroscope as ns
from neuroscope import Tracker
from neuroscope.reporting.tracking import FLOW_RUN_TAG
from neuroscope.studies.atlas.experiment import atlas_experiment
from neuroscope.studies.atlas.study import run_atlas
from neuroscope.web.app import create_app
from neuroscope.web.flow_api import Deployment, FlowState
from neuroscope.web.settings import Settings

__all__ = ["labelled"]
OPTIONS = {"min_auroc": 0.6, "min_lift": 1, "min_one_vs_one": 0.5}
"""Thresholds that neurons with random weights reach."""


def client_of(folder, flows=None, **settings):
    app = create_app(Settings(default_model=str(folder), device="cpu", **settings), flows)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def refused(answer, status, text):
    assert answer.status_code == status, answer.text
    assert text in answer.json()["error"] + answer.json()["remedy"]


@pytest.fixture
def recorded(database, family_folder, tmp_path):
    """Return the result of an atlas that is recorded."""
    file = write_rows(tmp_path / "prompts.jsonl", topical_rows())
    models = [str(family_folder("bert"))]
    experiment = atlas_experiment("", models, {"file": str(file)}, **OPTIONS)
    (result,) = run_atlas(experiment, Tracker.open())
    return result


@pytest.mark.usefixtures("without_figures")
def test_an_atlas_leads_from_topics_to_neurons_and_back(recorded):
    client = client_of(recorded.model)
    (item,) = client.get("/api/atlases").json()
    assert (item["run_id"], item["model"]) == (recorded.run_id, recorded.model)
    own = f"/api/atlases/{recorded.run_id}"
    summary = client.get(own).json()
    assert [row["topic"] for row in summary["topics"]] == sorted(WORDS)
    assert summary["headline"] == recorded.headline
    with ns.open_atlas(recorded.run_id) as atlas:
        expected = atlas.neurons("royals", layers=1, top=3)
        covariates = atlas.topics().set_index("name")
    rows = client.get(f"{own}/neurons?topic=royals&layers=1&top=3").json()
    assert [row["neuron"] for row in rows] == expected["neuron"].tolist()
    card = client.get(f"{own}/neurons/{rows[0]['neuron']}").json()
    assert card["name"] == rows[0]["neuron"]
    (entry,) = (row for row in card["topics"] if row["topic"] == "royals")
    assert entry["auroc_heldout"] == pytest.approx(rows[0]["auroc_heldout"])
    areas = covariates.loc["royals", ["tokens", "question_mark", "digits", "upper_case"]]
    best = (areas.astype(float) - 0.5).abs().max() + 0.5
    assert entry["covariate_auroc"] == pytest.approx(best)
    found = client.post(f"{own}/search", json={"text": "the queen sits", "top": 4}).json()
    z = [abs(row["z"]) for row in found]
    assert len(z) == 4 and z == sorted(z, reverse=True)
    refused(client.get(f"/api/atlases/{'0' * 32}"), 404, "is recorded")
    refused(client.get(f"{own}/neurons?topic=royal"), 400, "'royals'")
    refused(client.get(f"{own}/neurons/mlp_act.0.999999"), 400, "unknown neuron")
    refused(client.get(f"{own}/neurons?layers=9"), 400, "layer 9")


@pytest.mark.usefixtures("without_figures")
def test_only_models_of_the_list_search_an_atlas(recorded, family_folder):
    client = client_of(family_folder("llama"), models=(str(family_folder("llama")),))
    answer = client.post(f"/api/atlases/{recorded.run_id}/search", json={"text": "the queen"})
    refused(answer, 400, "may not be used")


def test_checks_of_versions_are_listed_and_shown(database, tmp_path, labelled):
    base = make_model("bert", tmp_path / "base", layers=2)
    result = drift(base, changed(base, 2.0), labelled, Tracker.open())
    client = client_of(base)
    (item,) = client.get("/api/drift").json()
    assert (item["run_id"], item["verdict"]) == (result.run_id, result.decision.verdict)
    assert item["statistic"] == pytest.approx(result.decision.statistic)
    check = client.get(f"/api/drift/{result.run_id}").json()
    assert check["verdict"] == result.decision.verdict and check["base"] == str(base)
    assert [row["topic"] for row in check["topics"]] == [
        row.topic for row in result.explanation.topics.rows
    ]
    assert check["links"] == {} and item["address"] == ""  # no server shows the database
    refused(client.get(f"/api/drift/{'0' * 32}"), 404, "is recorded")
    refused(client.get(f"/api/sessions/{result.run_id}"), 404, "is recorded")


def deployment(name, schema):
    return Deployment(name=name, description="", page="http://prefect/form", parameters=schema)


class Flows:
    """Flow server that only notes what it is asked."""

    def __init__(self):
        self.started, self.cancelled, self.final = [], [], False

    def deployments(self):
        fields = {"models": {"default": ["minilm"]}, "base": {}, "candidate": {}}
        schema = {"properties": fields}
        return [
            deployment("compare", schema),
            deployment("prune", {"properties": {"days": {}}}),
        ]

    def start(self, name, parameters):
        self.started.append(parameters)
        return "id"

    def flow_state(self, id):
        state = "Completed" if self.final else "Running"
        texts = {"id": id, "name": "run", "state": state, "message": ""}
        return FlowState(**texts, final=self.final, done=1, total=2, page="http://prefect/run")

    def cancel(self, id):
        self.cancelled.append(id)


def test_a_flow_is_started_followed_and_cancelled(database, family_folder):
    flows, folder = Flows(), str(family_folder("bert"))
    client = client_of(folder, flows, models=(folder,))
    assert [own["name"] for own in client.get("/api/flows").json()] == ["compare"]
    started = client.post("/api/flows/compare", json={"parameters": {"models": [folder]}})
    assert started.json()["state"] == "Running" and flows.started == [{"models": [folder]}]
    run = client.get("/api/flow-runs/id").json()
    assert (run["done"], run["total"], run["runs"]) == (1, 2, [])
    tags = {FLOW_RUN_TAG: "id"}
    with Tracker.open().run("compare", "its result", tags=tags):
        pass
    flows.final = True
    (result,) = client.get("/api/flow-runs/id").json()["runs"]
    assert result == {"name": "its result", "address": ""}  # no server shows the database
    assert client.delete("/api/flow-runs/id").status_code == 204 and flows.cancelled == ["id"]
    for name in ("none", "prune"):  # one that uses models which the list cannot limit
        refused(client.post(f"/api/flows/{name}", json={}), 400, "choose from compare")
    for key in ("models", "base", "candidate"):
        parameters = {"models": [folder], key: "other"}
        answer = client.post("/api/flows/compare", json={"parameters": parameters})
        refused(answer, 400, "may not be used")
    refused(client.post("/api/flows/compare", json={}), 400, "'minilm' may not be used")
    assert len(flows.started) == 1
    own = client_of(folder, flows)  # on this machine, any model and flow
    assert len(own.get("/api/flows").json()) == 2
    assert own.post("/api/flows/prune", json={}).status_code == 200


def test_without_a_prefect_server_the_remedy_is_told(family_folder):
    client = client_of(family_folder("bert"))
    assert client.get("/api/flows").json() == []
    refused(client.post("/api/flows/compare", json={}), 424, "neuroscope up")


def test_a_layer_is_a_table_of_arrow(family_folder):
    client = client_of(family_folder("bert"))
    prompts = ["the cat sits on the mat .", "the dog sits on the mat ."]
    probe = client.post("/api/probe", json={"prompts": prompts}).json()
    own = f"/api/probe/{probe['id']}"
    with pa.ipc.open_stream(io.BytesIO(client.get(f"{own}/table?layer=1").content)) as stream:
        frame = stream.read_pandas()
    values = np.frombuffer(client.get(f"{own}/values?layer=1").content, "<f4").reshape(2, -1)
    wide = frame.pivot(index="prompt", columns="unit", values="value").loc[prompts]
    np.testing.assert_array_equal(wide.to_numpy(), values)
    assert frame["neuron"][0] == "mlp_act.1.0" and len(frame) == values.size
    refused(client.get(f"{own}/table?layer=9"), 400, "layer 9")
