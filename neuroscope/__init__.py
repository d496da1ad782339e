"""Shows what the neurons of transformer language models do.

>>> import neuroscope as ns
>>> model = ns.load_model("minilm")
>>> acts = ns.extract(model, ["The cat is on the mat"], sites="resid_post", layers="all")
>>> acts["resid_post.2"].shape   # (prompts, neurons)
(1, 384)

Importing this package is fast: torch, transformers, MLflow and other large libraries are imported
only when they are first needed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuroscope.errors import NeuroscopeError

if TYPE_CHECKING:
    from neuroscope.activations import Activations
    from neuroscope.experiment import Experiment
    from neuroscope.extraction.extract import extract
    from neuroscope.extraction.models import Model
    from neuroscope.prompt_files import PromptFile, read_prompts
    from neuroscope.prompts import Prompt, PromptSet
    from neuroscope.reporting.plots import plot_activations, plot_difference
    from neuroscope.reporting.tracking import Tracker
    from neuroscope.sites import Site
    from neuroscope.storage.activation_store import read_activations, read_parts
    from neuroscope.storage.atlas_file import Atlas
    from neuroscope.studies.association.pairs import score_pairs
    from neuroscope.studies.association.pairs_result import PairsResult
    from neuroscope.studies.association.result import AssociationResult
    from neuroscope.studies.association.study import associate, run_association
    from neuroscope.studies.atlas.changes import atlas_changes
    from neuroscope.studies.atlas.find import open_atlas
    from neuroscope.studies.atlas.result import AtlasResult
    from neuroscope.studies.atlas.search import search_text
    from neuroscope.studies.atlas.study import build_atlas, run_atlas
    from neuroscope.studies.compare.result import Comparison
    from neuroscope.studies.compare.study import compare, run_comparison
    from neuroscope.studies.drift.result import DriftResult
    from neuroscope.studies.drift.study import drift, run_drift
    from neuroscope.studies.layers.result import LayersResult
    from neuroscope.studies.layers.study import layers, run_layers
    from neuroscope.studies.models import load_model
    from neuroscope.studies.probe.probe import Probe, probe
    from neuroscope.studies.store.store import extract_to
    from neuroscope.studies.study import load_experiment

_HOMES = {
    "Activations": "neuroscope.activations",
    "AssociationResult": "neuroscope.studies.association.result",
    "Atlas": "neuroscope.storage.atlas_file",
    "AtlasResult": "neuroscope.studies.atlas.result",
    "Comparison": "neuroscope.studies.compare.result",
    "DriftResult": "neuroscope.studies.drift.result",
    "Experiment": "neuroscope.experiment",
    "LayersResult": "neuroscope.studies.layers.result",
    "Model": "neuroscope.extraction.models",
    "PairsResult": "neuroscope.studies.association.pairs_result",
    "Probe": "neuroscope.studies.probe.probe",
    "Prompt": "neuroscope.prompts",
    "PromptFile": "neuroscope.prompt_files",
    "PromptSet": "neuroscope.prompts",
    "Site": "neuroscope.sites",
    "Tracker": "neuroscope.reporting.tracking",
    "associate": "neuroscope.studies.association.study",
    "atlas_changes": "neuroscope.studies.atlas.changes",
    "build_atlas": "neuroscope.studies.atlas.study",
    "compare": "neuroscope.studies.compare.study",
    "drift": "neuroscope.studies.drift.study",
    "extract": "neuroscope.extraction.extract",
    "extract_to": "neuroscope.studies.store.store",
    "layers": "neuroscope.studies.layers.study",
    "load_experiment": "neuroscope.studies.study",
    "load_model": "neuroscope.studies.models",
    "open_atlas": "neuroscope.studies.atlas.find",
    "plot_activations": "neuroscope.reporting.plots",
    "plot_difference": "neuroscope.reporting.plots",
    "probe": "neuroscope.studies.probe.probe",
    "read_activations": "neuroscope.storage.activation_store",
    "read_parts": "neuroscope.storage.activation_store",
    "read_prompts": "neuroscope.prompt_files",
    "run_association": "neuroscope.studies.association.study",
    "run_atlas": "neuroscope.studies.atlas.study",
    "run_comparison": "neuroscope.studies.compare.study",
    "run_drift": "neuroscope.studies.drift.study",
    "run_layers": "neuroscope.studies.layers.study",
    "score_pairs": "neuroscope.studies.association.pairs",
    "search_text": "neuroscope.studies.atlas.search",
}

__all__ = [
    "Activations",
    "AssociationResult",
    "Atlas",
    "AtlasResult",
    "Comparison",
    "DriftResult",
    "Experiment",
    "LayersResult",
    "Model",
    "NeuroscopeError",
    "PairsResult",
    "Probe",
    "Prompt",
    "PromptFile",
    "PromptSet",
    "Site",
    "Tracker",
    "associate",
    "atlas_changes",
    "build_atlas",
    "compare",
    "drift",
    "extract",
    "extract_to",
    "layers",
    "load_experiment",
    "load_model",
    "open_atlas",
    "plot_activations",
    "plot_difference",
    "probe",
    "read_activations",
    "read_parts",
    "read_prompts",
    "run_association",
    "run_atlas",
    "run_comparison",
    "run_drift",
    "run_layers",
    "score_pairs",
    "search_text",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'neuroscope' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
