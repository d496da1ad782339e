"""One-sentence summary of the result of a study of layers."""

import math
from collections.abc import Sequence

from neuroscope.stats.probes import Probe, ReadableLayers, readable_layers


def headline(
    layers: Sequence[int],
    label: str,
    label_probes: Sequence[Probe],
    bag: Probe | None,
    token_probes: Sequence[Probe],
    cka_next: Sequence[float],
) -> str:
    """Return one sentence that summarises the result; empty for one layer without probes.

    Args:
        layers: layers that were studied.
        label: name of the label.
        label_probes: probes for the label, one per layer; empty if there are none.
        bag: probe that predicts the label from token counts; None if there is none.
        token_probes: probes for token identity, one per layer; empty if there are none.
        cka_next: similarity of each layer with the next one.
    """
    clauses = []
    if label_probes:
        clauses.append(_label_clause(layers, label, label_probes, bag))
    if token_probes:
        clauses.append(_token_clause(layers, token_probes))
    if len(layers) > 1:
        clauses.append(_change_clause(layers, cka_next))
    return "; ".join(clauses) + "." if clauses else ""


def _label_clause(
    layers: Sequence[int], label: str, probes: Sequence[Probe], bag: Probe | None
) -> str:
    readable = readable_layers(probes)
    best = probes[readable.best]
    accuracy = (
        f"{best.accuracy:.0%} of held-out prompts, 95% interval {best.low:.0%} to {best.high:.0%},"
        f" chance {best.chance:.0%}"
    )
    words = ""
    if bag and readable.readable and best.low <= bag.accuracy:
        clearly = "no" if best.accuracy <= bag.accuracy else "not clearly"
        words = f", but {clearly} better than from its words: {bag.accuracy:.0%}"
    elif bag:
        accuracy += f", bag of tokens {bag.accuracy:.0%}"
    if not readable.readable:
        return f"{label} is not readable at any layer (at best {accuracy})"
    where = _where(layers, readable)
    if len(layers) == 1:
        return f"{label} is {where} ({accuracy}){words}"
    return f"{label} is {where} and best at layer {layers[readable.best]} ({accuracy}){words}"


def _where(layers: Sequence[int], readable: ReadableLayers) -> str:
    if readable.readable_from == 0:
        return "readable at every layer" if len(layers) > 1 else f"readable at layer {layers[0]}"
    if readable.readable_from is not None:
        return f"readable from layer {layers[readable.readable_from]} on"
    numbers = [str(layers[index]) for index in readable.readable]
    return f"readable at layer{'s' if len(numbers) > 1 else ''} {', '.join(numbers)} only"


def _token_clause(layers: Sequence[int], probes: Sequence[Probe]) -> str:
    """Return from which layer on token identity is read worse than at its best, by intervals."""
    best = max(range(len(probes)), key=lambda index: probes[index].accuracy)
    fading = len(probes)
    while fading > best + 1 and probes[fading - 1].high < probes[best].low:
        fading -= 1
    best_accuracy = f"{probes[best].accuracy:.0%}"
    if len(layers) == 1:
        return f"{best_accuracy} of held-out tokens are identified at layer {layers[0]}"
    if fading == len(probes):
        return f"token identity stays readable ({best_accuracy} at layer {layers[best]})"
    last_accuracy = f"{probes[-1].accuracy:.0%}"
    return (
        f"token identity fades from layer {layers[fading]} on"
        f" ({best_accuracy} at layer {layers[best]}, {last_accuracy} at layer {layers[-1]})"
    )


def _change_clause(layers: Sequence[int], cka_next: Sequence[float]) -> str:
    defined = [index for index in range(len(layers) - 1) if not math.isnan(cka_next[index])]
    if not defined:
        return "the similarity of layers is undefined for these prompts"
    least = min(defined, key=lambda index: cka_next[index])
    return (
        f"representations change most between layers {layers[least]} and {layers[least + 1]}"
        f" (CKA {cka_next[least]:.2f})"
    )
