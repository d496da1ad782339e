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

from mlflow import MlflowClient
from playwright.sync_api import sync_playwright
from transformers import AutoModel, AutoTokenizer

from flows.stack import Stack
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
}
"""Experiment -> its figures, each with its name in the documentation."""
ANIMALS = [f"The {word} is on the mat." for word in ("cat", "dog", "king", "car")]
"""Prompts of experiments/animals.yaml."""
CHARTS = "^depth/(anisotropy|effective_rank|token_accuracy)$"
"""Charts in the picture of MLflow."""
PORTS = {"mlflow": 5055, "prefect": 4255}


def neuroscope(*arguments: str | Path) -> dict[str, Any]:
    """Run a command of neuroscope; return its JSON document."""
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments), "--json"]
    process = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True)
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


def picture_mlflow(models: Sequence[str | Path], image: Path) -> None:
    """Study models of different depth; save a picture of their charts in MLflow."""
    document = neuroscope("layers", "experiments/topics.csv", *options_of(models))
    run = document["runs"][0]["run_id"]
    experiment = MlflowClient(tracking_uri()).get_run(run).info.experiment_id
    # the overview of both models has no metrics
    query = urlencode({"compareRunsMode": "CHART", "searchFilter": "metrics.`depth/norm` > 0"})
    with Stack(PORTS) as stack, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1400, "height": 690})
        server = stack.addresses().servers["MLflow"]
        page.goto(f"{server}/#/experiments/{experiment}/runs?{query}")
        page.get_by_placeholder("Search metric charts").fill(CHARTS)
        page.get_by_role("button", name="Close", exact=True).click()  # the assistant
        page.get_by_text("(3)", exact=True).wait_for()
        page.wait_for_timeout(3000)  # until the charts are drawn at their new width
        page.screenshot(path=image)
    print(image)


def main() -> None:
    """Draw all figures."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["NEUROSCOPE_HOME"] = str(Path(scratch) / "home")
        small = first_layers(3, Path(scratch) / "minilm-3-layers")
        models = ["minilm", small]
        picture_mlflow(models, IMAGES / "layers_mlflow.png")
        for experiment, names in FIGURES.items():
            run = neuroscope("run", experiment)["runs"][0]["run_id"]
            copy_figures(run, names, Path(scratch))
        overview = neuroscope("compare", *ANIMALS, *options_of(models))["overview"]["run_id"]
        copy_figures(overview, {"models_by_layer.png": "animals_models.png"}, Path(scratch))


if __name__ == "__main__":
    main()
