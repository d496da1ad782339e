"""Examples in docstrings, and Python code in the README and the docs."""

import doctest
import os
import pkgutil
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from extractions import Norms
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import flows
import neuroscope as ns
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.prompts import Prompt
from neuroscope.storage.keys import ActivationKey

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = {
    "flows.prefect_server.PrefectServer",
    "flows.processes.Children",
    "flows.second_process.SecondProcessExecutor",
    "flows.stack.Stack",
    "flows.startup.quick_start",
    "neuroscope.extraction.differences.CheckpointDifferences",
    "neuroscope.extraction.likelihood.prediction_associations",
    "neuroscope.extraction.likelihood.token_log_likelihoods",
    "neuroscope.extraction.patching.patched",
    "neuroscope.extraction.silencing.silenced",
    "neuroscope.extraction.streaming.LayerStream",
    "neuroscope.reporting.registered_model.RegisteredModel",
    "neuroscope.stats.alignment.MeanSd",
    "neuroscope.stats.alignment.Procrustes",
    "neuroscope.storage.atlas_verifying.verified_copy",
    "neuroscope.storage.atlas_writing.write_atlas",
    "neuroscope.storage.writing.FolderWriter",
    "neuroscope.studies.association.pairs.score_pairs",
    "neuroscope.studies.association.pairs_result.PairsResult",
    "neuroscope.studies.association.pairs_tokens.ControlTokens",
    "neuroscope.studies.atlas.ablation.ablate",
    "neuroscope.studies.atlas.result.AtlasResult",
    "neuroscope.studies.atlas.study.build_atlas",
    "neuroscope.studies.drift.baseline.Baseline",
    "neuroscope.studies.drift.result.DriftResult",
    "neuroscope.studies.drift.study.drift",
    "neuroscope.studies.models.load_model",
    "neuroscope.web.app.create_app",
    "neuroscope.web.kept.KeptProbes",
    "neuroscope.web.worker.ModelWorker",
}
"""Docstrings whose examples need a server, another process, a second model or a longer set-up."""


class OnlyExpected(doctest.OutputChecker):
    """Checker that compares an example's output only if the docstring shows one."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


def docstrings():
    for package in (ns, flows):
        names = [package.__name__]
        names += [
            module.name
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        ]
        for name in names:
            if not name.endswith("__main__"):
                yield from doctest.DocTestFinder(exclude_empty=True).find(import_module(name), name)


EXAMPLES = {test.name: test for test in docstrings() if test.examples}


@pytest.fixture(scope="module")
def model():
    return ns.load_model("minilm")


@pytest.fixture
def folder(tmp_path, monkeypatch, database):
    """Prepare the current folder of an example: experiments, prompts and an MLflow database."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    shutil.copy(ROOT / "experiments" / "topics.csv", tmp_path / "prompts.csv")
    (tmp_path / "questions.tsv").write_text("question\ttopic\nwho sits?\tcats\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def example_names(model, folder):
    """Return the names that examples use without defining them."""
    from concurrent.futures import ThreadPoolExecutor

    from prefect import flow

    from neuroscope.extraction.batching import batches, tokenise
    from neuroscope.extraction.budget import TokenBudget
    from neuroscope.reporting.run import Point
    from neuroscope.sites import Site
    from neuroscope.storage.activation_store import store_folder
    from neuroscope.studies.store.spec import ExtractionSpec
    from neuroscope.studies.store.store import store_activations
    from neuroscope.studies.study import load_experiment

    prompts = ns.PromptSet.of(["The cat is on the mat", "the cat", "A dog", "The mat is red"])
    sites = (Site("resid_post", 2), Site("mlp_act", 3))
    spec = ExtractionSpec(checkpoint=model.checkpoint, prompts=prompts, sites=sites)
    stored = store_activations(spec, folder / "activations", lambda: model, statistics=[Norms()])
    block = tokenise(model, [Prompt("0", "the cat"), *prompts.prompts])
    batch = next(iter(batches(model, block, token_rule="all", budget=TokenBudget(100))))
    return {
        **{"ns": ns, "np": np, "torch": torch, "os": os, "Path": Path, "flow": flow},
        **{"model": model, "prompts": prompts, "sites": sites, "spec": spec, "stored": stored},
        **{"block": block, "inputs": batch.inputs(model), "path": folder, "rows": [sites[0]]},
        **{"find_checkpoint": find_checkpoint, "load_experiment": load_experiment},
        **{"Site": Site, "Point": Point, "ActivationKey": ActivationKey, "total": 0},
        **{"store_folder": store_folder, "store_activations": store_activations},
        **{"load_model": ns.load_model, "executor": ThreadPoolExecutor(1)},
    }


@pytest.fixture(scope="module")
def atlas_file(model, tmp_path_factory):
    """Return the file of an atlas of minilm."""
    path = tmp_path_factory.mktemp("atlas") / "atlas.duckdb"
    ns.build_atlas(model, ROOT / "experiments" / "topics.csv", path).close()
    return path


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - NOT_RUN))
def test_docstring_examples_run(name, model, folder, request):
    test = EXAMPLES[name]
    test.globs = example_names(model, folder) | test.globs
    if any("atlas" in example.source for example in test.examples):
        path = shutil.copy(request.getfixturevalue("atlas_file"), folder / "atlas.duckdb")
        test.globs["atlas"] = ns.open_atlas(path)
    if name.endswith("read_statistics"):
        test.examples[0].source = test.examples[0].source.replace("geometry-3f2a", "norms-1")
    report = []
    runner = doctest.DocTestRunner(
        OnlyExpected(), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert runner.run(test, out=report.append, clear_globs=False).failed == 0, "".join(report)


def test_every_docstring_that_is_not_run_has_examples():
    assert set(EXAMPLES) >= NOT_RUN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_code_of_a_page_runs(page, folder):
    document = Sybil([SkipParser(), PythonCodeBlockParser()]).parse(page)
    for example in document.examples():
        example.evaluate()
