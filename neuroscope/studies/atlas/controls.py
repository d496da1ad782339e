"""Control neurons that resemble those that are silenced: same layer, firing rate and mean."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ExperimentError
from neuroscope.storage.atlas_file import Atlas

if TYPE_CHECKING:
    import pandas as pd

FEWEST_CONTROLS = 20
"""Smallest number of controls with which a p-value can be less than .05."""

_NEURONS = """
SELECT n.neuron, n.name, n.layer, n.unit, n.mean, n.active,
    NOT (s.selective OR coalesce(n.general, false)) AS usable
FROM neuron n JOIN selectivity s USING (neuron)
WHERE s.topic = ? AND n.layer IN (SELECT unnest(?)) ORDER BY n.neuron
"""


def neurons_in(atlas: Atlas, topic: int, layers: Sequence[int]) -> "pd.DataFrame":
    """Return the neurons of some layers, by number.

    A neuron is `usable` as a control unless it is selective for the topic, or `general`.
    """
    return atlas.sql(_NEURONS, [topic, sorted(set(layers))]).set_index("neuron")


def matched_controls(
    neurons: "pd.DataFrame", tested: Sequence[int], count: int, seed: int
) -> NDArray[np.int64]:
    """Return sets of control neurons, each as large as the set that is tested.

    Each neuron has one control in each set, from its own layer. Its controls are the neurons whose
    share of active prompts and |mean| are nearest, in standard deviations of the layer. No neuron
    is in two sets; where several neurons of a layer are tested, each takes its nearest in turn.

    Args:
        neurons: neurons from `neurons_in`, of all layers of those that are tested.
        tested: numbers of the neurons that are tested.
        count: number of sets; there are fewer if a layer does not have enough neurons.
        seed: seed of the order in which the controls of a neuron are divided among the sets.

    Returns:
        (sets, tested) numbers of neurons.

    Raises:
        ExperimentError: a layer has too few neurons for `FEWEST_CONTROLS` sets.
    """
    usable = neurons[neurons["usable"] & ~neurons.index.isin(list(tested))]
    pools = {layer: pool.index.to_numpy() for layer, pool in usable.groupby("layer")}
    layers = neurons.loc[list(tested), "layer"].tolist()
    for layer in sorted(set(layers)):
        available = len(pools.get(layer, [])) // layers.count(layer)
        if available < min(count, FEWEST_CONTROLS):
            raise _too_few(layer, layers.count(layer), len(pools.get(layer, [])))
        count = min(count, available)
    features = _standardised(neurons)
    position = {number: index for index, number in enumerate(neurons.index.tolist())}
    controls = np.empty((count, len(tested)), dtype=np.int64)
    distances = [
        np.linalg.norm(
            features[[position[number] for number in pools[layer].tolist()]]
            - features[position[number]],
            axis=1,
        )
        for number, layer in zip(tested, layers, strict=True)
    ]
    taken = {layer: np.zeros(len(pool), dtype=bool) for layer, pool in pools.items()}
    for row in range(count):
        for column, layer in enumerate(layers):
            nearest = int(np.argmin(np.where(taken[layer], np.inf, distances[column])))
            taken[layer][nearest] = True
            controls[row, column] = pools[layer][nearest]
    shuffled: NDArray[np.int64] = np.random.default_rng(seed).permuted(controls, axis=0)
    return shuffled


def _standardised(neurons: "pd.DataFrame") -> NDArray[np.float64]:
    """Return share active and |mean| in standard deviations of the layer, (neurons, 2)."""
    values = neurons[["active", "mean"]].abs().astype(float)
    spread = values.groupby(neurons["layer"]).transform("std", ddof=0).to_numpy()
    return values.to_numpy() / np.where(spread > 0, spread, 1)


def _too_few(layer: int, tested: int, available: int) -> ExperimentError:
    return ExperimentError(
        f"layer {layer} has {available} possible control neurons; to test {tested} at a time,"
        f" {FEWEST_CONTROLS * tested} are needed",
        remedy="test fewer neurons at a time",
    )
