"""Silencing of neurons at the prompts of a probe: what changes at the model's output."""

from collections.abc import Sequence
from typing import Literal

from neuroscope.errors import ModelError
from neuroscope.extraction.models import Model
from neuroscope.extraction.silenced_outputs import Measure, SilencedOutputs
from neuroscope.extraction.silencing import Replacement
from neuroscope.sites import Site
from neuroscope.studies.probe.probe import Probe

Mode = Literal["mean", "zero"]


def silenced_changes(
    model: Model, probe: Probe, neurons: Sequence[str], mode: Mode = "mean"
) -> tuple[Measure, list[float]]:
    """Return how much the output of a model changes at each prompt when neurons are silenced.

    >>> found = ns.probe(model, ["The nurse is a man", "The nurse is a woman"], "mlp_act")
    >>> measure, changes = silenced_changes(model, found, ["mlp_act.3.57"])
    >>> measure, len(changes)
    ('representation', 2)

    Args:
        model: model of the probe, with its head if the change is to be that of the loss.
        probe: prompts, and the usual mean of each neuron.
        neurons: names of the neurons, silenced together.
        mode: what replaces them: their `mean` over the reference sentences, or `zero`.

    Returns:
        What is measured (see `SilencedOutputs`), and its change at each prompt.

    Raises:
        SiteError: the probe has no such neuron, or neurons of its site cannot be silenced.
        ModelError: the model is not the one of the probe, or is streamed.
        PromptError, NonfiniteError, ResourceError: as in `extract`.
    """
    if model.checkpoint.fingerprint != probe.activations.provenance.fingerprint:
        raise ModelError(
            f"the files of '{model.name}' have changed since the prompts were read",
            remedy="read the prompts again",
        )
    places: dict[int, list[int]] = {}
    for layer, unit in dict.fromkeys(map(probe.place_of, neurons)):
        places.setdefault(layer, []).append(unit)
    replacements = {
        Site(probe.component, layer): Replacement.of(
            units, probe.reference[layer].mean[units] if mode == "mean" else 0.0
        )
        for layer, units in places.items()
    }
    truncate = probe.activations.provenance.truncated
    outputs = SilencedOutputs(model, probe.activations.prompts, truncate=truncate)
    return outputs.measure, outputs.change(replacements).tolist()
