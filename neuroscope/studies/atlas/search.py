"""Search of an atlas: which neurons respond unusually to a text."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.activations import Floats
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import Model
from neuroscope.prompts import fill_template
from neuroscope.sites import Site
from neuroscope.storage.atlas_file import Atlas
from neuroscope.studies.atlas.described import described_checkpoint, load_described

if TYPE_CHECKING:
    import pandas as pd


def search_text(
    atlas: Atlas, text: str, *, top: int = 20, model: "Model | str" = "", device: str = "auto"
) -> "pd.DataFrame":
    """Return the neurons that respond most unusually to a text.

    The text is put into the template of the atlas's prompts, if they have one.
    Values are ranked by their distance from the neuron's mean over the atlas's prompts, in standard
    deviations (z).

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
        for which it is selective and not confounded.

    Raises:
        ModelError: the model is not that of the atlas.
        PromptError: the text is blank or too long.
    """
    import pandas as pd

    settings = atlas.model()
    checkpoint = described_checkpoint(settings, model)
    loaded = model if isinstance(model, Model) else load_described(settings, checkpoint, device)
    sites = [f"{settings['component']}.{layer}" for layer in atlas.layers]
    read = extract(loaded, _filled(settings, text), sites, pool="none")
    block = read.tokens
    words = [block.vocabulary.display(id) for id in block.ids[block.kept("content")].tolist()]
    found = pd.concat(
        [_unusual(atlas, site, read[site][0], words, settings["pool"], top) for site in sites],
        ignore_index=True,
    )
    order = found["z"].abs().sort_values(ascending=False, kind="stable").index[:top]
    found = found.loc[order].reset_index(drop=True)
    return found.assign(topics=[_topics(atlas, name) for name in found["neuron"]])


def _filled(settings: Mapping[str, Any], text: str) -> list[str]:
    """Return a text as the atlas's prompts are, in their template if they have one."""
    template = json.loads(settings["experiment"]).get("prompt_template", "")
    return fill_template(template, [text]) if template else [text]


def _unusual(
    atlas: Atlas, site: str, values: Floats, words: Sequence[str], pool: str, top: int
) -> "pd.DataFrame":
    """Return the neurons of a site whose pooled value is furthest from its mean.

    Args:
        atlas: open atlas.
        site: site of the neurons.
        values: (tokens, neurons) activations at the tokens that count.
        words: text of each of these tokens.
        pool: how the atlas pools tokens, `mean` or `max`.
        top: number of neurons.
    """
    import pandas as pd

    layer = Site.parse(site).layer
    pooled = values.mean(axis=0) if pool == "mean" else values.max(axis=0)
    mean, sd = atlas.moments(layer)
    z = np.divide(pooled - mean, sd, out=np.zeros_like(pooled), where=sd > 0)
    chosen = np.argsort(-np.abs(z), kind="stable")[:top]
    peaks = values[:, chosen].argmax(axis=0)
    return pd.DataFrame(
        {
            "neuron": [f"{site}.{unit}" for unit in chosen.tolist()],
            "layer": layer,
            "value": pooled[chosen],
            "z": z[chosen],
            "token": [words[peak] for peak in peaks.tolist()],
        }
    )


def _topics(atlas: Atlas, neuron: str) -> str:
    """Return the names of the topics for which a neuron is selective and not confounded."""
    names = atlas.sql(
        "SELECT t.name FROM selectivity s JOIN topic t USING (topic)"
        " WHERE s.selective AND NOT s.confounded AND s.neuron = ? ORDER BY t.name",
        [atlas.check_neuron(neuron)],
    )["name"]
    return ", ".join(names)
