"""Figures of the documentation, from studies of minilm; `make docs-figures` writes them.

The picture of MLflow needs a browser (`make chromium`).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import torch
from mlflow import MlflowClient
from playwright.sync_api import Page, sync_playwright
from transformers import AutoModel, AutoTokenizer

from benchmarks.interface import browser_page, served
from flows.stack import Stack
from neuroscope.reporting.tracking import Tracker
from neuroscope.reporting.tracking_server import tracking_uri
from neuroscope.studies.models import find_model

IMAGES = Path(__file__).parent / "images"
REPOSITORY = Path(__file__).parents[1]
FIGURES = {
    "experiments/engineer.yaml": {
        "by_layer.png": "engineer_by_layer.png",
        "difference_resid_post.2_1.png": "engineer_difference.png",
    },
    "experiments/animals.yaml": {
        "by_layer.png": "animals_by_layer.png",
        "difference_resid_post.2_0.png": "animals_difference.png",
        "prompts_resid_post.2.png": "animals_prompts.png",
    },
    "experiments/layers.yaml": {
        "reading_by_layer.png": "layers_reading.png",
        "cka.png": "layers_cka.png",
        "geometry_by_layer.png": "layers_geometry.png",
    },
    "experiments/man_woman_transgender.yaml": {
        "contrast_by_layer.png": "association_transgender.png",
    },
    "experiments/occupations_gender.yaml": {
        "contrast_by_layer.png": "association_by_layer.png",
        "roles.png": "association_roles.png",
    },
    "experiments/atlas.yaml": {
        "selective_by_layer.png": "atlas_selective.png",
        "growth_by_layer.png": "atlas_growth.png",
    },
}
"""Experiment -> its figures, each with its name in the documentation."""
DRIFT = {"drift_by_layer.png": "drift_by_layer.png", "patching.png": "drift_patching.png"}
"""Figures of a check of drift."""
ANIMALS = [f"The {word} is on the mat." for word in ("cat", "dog", "king", "car")]
"""Prompts of experiments/animals.yaml."""
CHARTS = "^depth/(anisotropy|effective_rank|token_accuracy)$"
"""Charts in the picture of MLflow."""
PORTS = {"mlflow": 5055, "prefect": 4255, "health": 5085, "ui": 5095}


def neuroscope(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    """Run a command of neuroscope that ends with an exit code; return its JSON document."""
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments), "--json"]
    process = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
    if process.returncode != code:
        raise subprocess.CalledProcessError(process.returncode, command)
    document: dict[str, Any] = json.loads(process.stdout)
    return document


def options_of(models: Sequence[str | Path]) -> list[str | Path]:
    """Return the options that name models."""
    return [option for model in models for option in ("--model", model)]


def copy_figures(run: str, names: dict[str, str], scratch: Path) -> None:
    """Copy some figures of a run to the documentation."""
    plots = MlflowClient(tracking_uri()).download_artifacts(run, "plots", str(scratch))
    for name, image in names.items():
        shutil.copyfile(Path(plots) / name, IMAGES / image)
        print(IMAGES / image)


def first_layers(count: int, folder: Path) -> Path:
    """Write a shallower model to a folder: the first layers of minilm."""
    source = find_model("minilm").folder
    AutoModel.from_pretrained(source, num_hidden_layers=count).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def other_version(folder: Path, noise: float = 0.2) -> Path:
    """Write another version of minilm to a folder: with noise in the weights from layer 2 on.

    Args:
        folder: new folder.
        noise: standard deviation of the noise, by that of each weight.
    """
    source = find_model("minilm").folder
    module = AutoModel.from_pretrained(source)
    torch.manual_seed(0)
    for layer in module.encoder.layer[2:]:
        for weight in layer.parameters():
            weight.data += noise * weight.data.std(correction=0) * torch.randn_like(weight)
    module.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def draw_drift(version: Path, scratch: Path) -> None:
    """Check another version of minilm; then monitor minilm as a model with five versions."""
    prompts = ["--prompts", "experiments/topics.csv"]
    run = neuroscope("drift", "minilm", version, *prompts, code=1)["run_id"]
    copy_figures(run, DRIFT, scratch)
    client = MlflowClient(tracking_uri())
    client.create_registered_model("minilm")
    for number, noise in enumerate((0.0, 0.2, 0.02, 0.05, 0.03), 1):
        folder = other_version(scratch / f"registered-{number}", noise)
        client.create_model_version("minilm", str(folder))
    client.set_registered_model_alias("minilm", "champion", "1")
    history = neuroscope("monitor", "minilm", *prompts, code=1)["history_run"]
    copy_figures(history, {"history.png": "drift_history.png"}, scratch)


def picture_mlflow(shallow: Path, version: Path) -> None:
    """Study minilm beside a shallower model and another version; take pictures of MLflow."""
    layers = neuroscope("layers", "experiments/topics.csv", *options_of(["minilm", shallow]))
    versions = options_of(["minilm", version])
    neuroscope("compare", *ANIMALS, *versions)
    compared = neuroscope("compare", *ANIMALS, *versions)  # a second date
    tracker = Tracker.connect()
    with Stack(PORTS) as stack, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1400, "height": 690})
        page.goto(f"{stack.addresses().servers['MLflow']}/#/experiments")
        page.get_by_role("button", name="Close", exact=True).click()  # the assistant
        port = PORTS["mlflow"]
        charts = tracker.charts_address(layers["runs"][0]["run_id"], port=port)
        take(page, charts, "layers_mlflow.png", charts=CHARTS)
        charts = tracker.charts_address(compared["runs"][0]["run_id"], port=port)
        take(page, charts, "mlflow_charts.png", charts="^span/")
        take(page, charts.partition("&")[0], "mlflow_runs.png")
        run = tracker.address(compared["runs"][0]["run_id"], port=port)
        take(page, run, "mlflow_run.png")
        overview = tracker.address(compared["overview"]["run_id"], port=port)
        report = overview.replace("?", "/artifacts/report.html?")
        page.set_viewport_size({"width": 1400, "height": 1150})
        take(page, report, "mlflow_report.png")
        ids = [entry["run_id"] for entry in compared["runs"]]
        experiment = MlflowClient(tracking_uri()).get_run(ids[0]).info.experiment_id
        query = urlencode({"runs": json.dumps(ids), "experiments": json.dumps([experiment])})
        take(page, f"http://127.0.0.1:{port}/#/compare-runs?{query}", "mlflow_compare.png")


def picture_interface(home: Path) -> None:
    """Take pictures of the interface: two prompts with one of their neurons, and an atlas."""
    neuroscope("atlas", "build", "experiments/topics.csv")
    prompts = urlencode([("p", "The striker scored twice."), ("p", "The singer sang twice.")])
    with served(home, "minilm") as address, browser_page() as page:
        watched = "watch=mlp_act.4.685&watch=mlp_act.4.521"
        neuron = f"{address}/m/minilm/mlp_act/L4/N685?{prompts}&{watched}"
        page.set_viewport_size({"width": 1280, "height": 1000})
        page.goto(neuron)
        page.get_by_text("Covariate alone").first.wait_for()  # the model and the atlas are open
        take(page, neuron, "interface_probe.png")
        take(page, f"{address}/atlas?topic=sport&neuron=mlp_act.4.685", "interface_atlas.png")


def take(page: Page, address: str, image: str, *, charts: str = "") -> None:
    """Save a picture of a page, in which only some of the charts are shown."""
    page.goto("about:blank")
    page.goto(address)
    if charts:
        page.get_by_placeholder("Search metric charts").fill(charts)
    page.wait_for_timeout(8000)  # until everything is drawn
    page.screenshot(path=IMAGES / image)
    print(IMAGES / image)


def main() -> None:
    """Draw all figures."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["NEUROSCOPE_HOME"] = str(Path(scratch) / "home")
        small = first_layers(3, Path(scratch) / "minilm-3-layers")
        models = ["minilm", small]
        version = other_version(Path(scratch) / "minilm-v2")
        picture_mlflow(small, version)
        picture_interface(Path(os.environ["NEUROSCOPE_HOME"]))
        draw_drift(version, Path(scratch))
        for experiment, names in FIGURES.items():
            run = neuroscope("run", experiment)["runs"][0]["run_id"]
            copy_figures(run, names, Path(scratch))
        overview = neuroscope("compare", *ANIMALS, *options_of(models))["overview"]["run_id"]
        copy_figures(overview, {"models_by_layer.png": "animals_models.png"}, Path(scratch))


if __name__ == "__main__":
    main()
