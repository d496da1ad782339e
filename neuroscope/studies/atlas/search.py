"""Search of an atlas: which neurons respond unusually to a text."""

from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.errors import ModelError
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import Model, load_model
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site
from neuroscope.storage.atlas_file import Atlas
from neuroscope.studies.models import find_model

if TYPE_CHECKING:
    import pandas as pd


def search_text(
    atlas: Atlas, text: str, *, top: int = 20, model: "Model | str" = "", device: str = "auto"
) -> "pd.DataFrame":
    """Return the neurons that respond most unusually to a text.

    How unusual a value is, is its distance from the neuron's mean over the atlas's prompts in
    standard deviations (z).

    >>> with ns.open_atlas("atlas.duckdb") as atlas:
    ...     ns.search_text(atlas, "The striker scored twice")

    Args:
        atlas: open atlas.
        text: text that the model reads.
        top: number of neurons.
        model: loaded model, or its name; by default the name in the atlas.
        device: device on which a model that is named is loaded.

    Returns:
        One row per neuron: `neuron`, `layer`, `value`, `z`, `token` (where it peaks), and `topics`
        for which it is selective.

    Raises:
        ModelError: the model is not that of the atlas.
        PromptError: the text is blank or too long.
    """
    import pandas as pd

    settings = atlas.model()
    loaded = model if isinstance(model, Model) else _load(settings, model, device)
    check_same_model(loaded.checkpoint, settings)
    prompts = PromptSet.of([text])
    layers = atlas.sql("SELECT DISTINCT layer FROM neuron ORDER BY layer")["layer"].tolist()
    sites = [Site(settings["component"], layer) for layer in layers]
    pooled = extract(loaded, prompts, [str(site) for site in sites], pool=settings["pool"])
    tokens = extract(loaded, prompts, [str(site) for site in sites], pool="none")
    block = tokenise(loaded, prompts.prompts)
    words = [loaded.vocabulary.display(id) for id in block.ids[block.kept("content")].tolist()]
    frames = []
    for site in sites:
        values = pooled[site][0]
        mean, sd = atlas.moments(site.layer)
        z = np.divide(values - mean, sd, out=np.zeros_like(values), where=sd > 0)
        chosen = np.argsort(-np.abs(z), kind="stable")[:top]
        peaks = tokens[site][0][:, chosen].argmax(axis=0)
        frames.append(
            pd.DataFrame(
                {
                    "neuron": [f"{site}.{unit}" for unit in chosen.tolist()],
                    "layer": site.layer,
                    "value": values[chosen],
                    "z": z[chosen],
                    "token": [words[peak] for peak in peaks.tolist()],
                }
            )
        )
    found = pd.concat(frames, ignore_index=True)
    order = found["z"].abs().sort_values(ascending=False, kind="stable").index[:top]
    found = found.loc[order].reset_index(drop=True)
    return found.assign(topics=[_topics(atlas, name) for name in found["neuron"]])


def _load(settings: dict[str, Any], name: str, device: str) -> Model:
    """Load the model of an atlas in the number format in which it was read."""
    checkpoint = find_model(name or settings["name"])
    check_same_model(checkpoint, settings)  # before the weights are loaded
    return load_model(
        checkpoint, device=device, dtype=settings["dtype"], attention=settings["attention"]
    )


def check_same_model(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Raise ModelError unless a model is the one that an atlas describes."""
    if checkpoint.fingerprint != settings["fingerprint"]:
        raise ModelError(
            f"the atlas describes '{settings['name']}' (SHA-256 {settings['fingerprint'][:12]}…),"
            f" but '{checkpoint.name}' has other files (SHA-256 {checkpoint.fingerprint[:12]}…)",
            remedy="name the model of the atlas, or build an atlas of this one",
        )


def _topics(atlas: Atlas, neuron: str) -> str:
    """Return the names of the topics for which a neuron is selective."""
    names = atlas.sql(
        "SELECT t.name FROM selectivity s JOIN topic t USING (topic)"
        " WHERE s.selective AND s.neuron = ? ORDER BY t.name",
        [atlas.check_neuron(neuron)],
    )["name"]
    return ", ".join(names)
