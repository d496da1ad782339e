"""Reading an atlas: which neurons respond to which topics, and what is known of each neuron."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ExperimentError, SiteError
from neuroscope.sites import Layers, parse_site
from neuroscope.storage.atlas_queries import (
    CARD_EXAMPLES,
    CARD_NEIGHBOURS,
    CARD_TOPICS,
    COVARIATE_AUROCS,
    LAYER,
    NEURON,
    TOKEN_TEXTS,
    TOPIC_NUMBERS,
    TOPICS,
    UNITS,
    NeuronCard,
    NeuronFilter,
    marked_excerpt,
)
from neuroscope.storage.atlas_reader import AtlasReader
from neuroscope.storage.atlas_schema import COVARIATES

if TYPE_CHECKING:
    import pandas as pd


class Atlas(AtlasReader):
    """Atlas that is open for reading.

    >>> with Atlas.open("atlas.duckdb") as atlas:
    ...     atlas.neurons("sport", layers="4-5", top=10)
    ...     atlas.neuron("mlp_act.5.57").examples

    Several threads and processes may read the same file at the same time. The methods raise
    StoreError if the file turns out to be damaged, and ResourceError if there is not enough memory.
    """

    @property
    def layers(self) -> list[int]:
        """Layers whose neurons are described, in ascending order."""
        return [
            row["layer"]
            for row in self._records("SELECT DISTINCT layer FROM neuron ORDER BY layer")
        ]

    def model(self) -> dict[str, Any]:
        """Return the model, the prompts and the settings: column of the table `model` -> value."""
        return self._records("SELECT * FROM model")[0]

    def topics(self) -> "pd.DataFrame":
        """Return one row per topic, with the AUROC of each covariate as a column."""
        covariates = self._frame(COVARIATE_AUROCS).pivot(
            index="topic", columns="name", values="auroc"
        )
        covariates = covariates.reindex(columns=list(COVARIATES)).rename_axis(columns=None)
        return self._frame(TOPICS).merge(covariates, how="left", on="topic")

    def neurons(
        self,
        topic: str | None = None,
        *,
        layers: str | int | Sequence[int] | None = None,
        top: int | None = 50,
        selective: bool = True,
        confounded: bool | None = None,
        polarity: int | None = None,
        verified: bool | None = None,
    ) -> "pd.DataFrame":
        """Return neurons with their topics, those with the held-out AUROC furthest from .5 first.

        Args:
            topic: name of a topic; by default all topics.
            layers: layers such as `"0-5"`, `[2, 4]` or `-1` (the last); by default all.
            top: maximum number of rows; None for all.
            selective: whether to leave out entries that do not meet the thresholds.
            confounded: whether covariates explain the entry; by default either.
            polarity: 1 for neurons active on the topic, -1 for silent ones; by default both.
            verified: True for entries that silencing confirms, False for those tested but not
                confirmed; by default also those not tested.

        Raises:
            ExperimentError: the topic is unknown, or `top` is less than 1.
            SiteError: a layer does not exist, or the atlas describes none of the layers.
        """
        if top is not None and top < 1:
            raise ExperimentError(f"top is {top}", remedy="give 1 or more, or None for all")
        chosen = None if layers is None else self._described(layers)
        number = None if topic is None else self.check_topic(topic)
        filtered = NeuronFilter(number, chosen, top, selective, confounded, polarity, verified)
        return self._frame(*filtered.statement())

    def neuron(self, name: str) -> NeuronCard:
        """Return what the atlas holds on a neuron, such as `mlp_act.3.57`.

        Raises:
            ExperimentError: the neuron is unknown.
        """
        neuron = self._neuron(name)
        number = {"neuron": neuron["neuron"]}
        topics = {**number, "topics": list(self._topic_numbers)}
        with ThreadPoolExecutor() as pool:  # planning a query takes most of its time, and one core
            parts = (
                pool.submit(self._frame, CARD_TOPICS, topics),
                pool.submit(self._examples, number),
                pool.submit(self._frame, CARD_NEIGHBOURS, number),
            )
        return NeuronCard(neuron, *(part.result() for part in parts))

    def _examples(self, number: dict[str, int]) -> "pd.DataFrame":
        """Return the examples of a neuron, with excerpts in place of the ids of their tokens."""
        examples = self._frame(CARD_EXAMPLES, number)
        ids = [own.tolist() for own in examples.pop("ids")]
        tokens = sorted(set(chain.from_iterable(ids)))
        texts = {row["token"]: row["text"] for row in self._records(TOKEN_TEXTS, [tokens])}
        examples["excerpt"] = [
            marked_excerpt([texts[token] for token in own], position)
            for own, position in zip(ids, examples["position"], strict=True)
        ]
        return examples

    def check_topic(self, name: str) -> int:
        """Return the number of a topic.

        Raises:
            ExperimentError: the topic is unknown.
        """
        numbers = self._topic_numbers
        if name not in numbers:
            near = get_close_matches(name, numbers, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            remedy = f"choose from {', '.join(numbers)}"
            raise ExperimentError(f"unknown topic '{name}'{hint}", remedy=remedy)
        return numbers[name]

    def check_neuron(self, name: str) -> int:
        """Return the number of a neuron.

        Raises:
            ExperimentError: the neuron is unknown.
        """
        return int(self._neuron(name)["neuron"])

    def names(self, layer: int) -> list[str]:
        """Return the names of the neurons of a layer, in the order of `moments`."""
        return [row["name"] for row in self._records(LAYER, [layer])]

    def moments(self, layer: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the means and standard deviations of a layer's neurons over all prompts.

        Both have shape (neurons,) and are empty if the atlas does not describe the layer.
        """
        frame = self._frame(LAYER, [layer])
        return frame["mean"].to_numpy(np.float32), frame["sd"].to_numpy(np.float32)

    def _described(self, layers: str | int | Sequence[int]) -> list[int]:
        """Return those of the layers whose neurons are described; raise SiteError if none is."""
        own = self.layers
        chosen = [
            layer for layer in Layers.parse(layers).resolve(self.model()["layers"]) if layer in own
        ]
        if not chosen:
            raise SiteError(
                f"the atlas does not describe layers {layers}",
                remedy=f"choose from {', '.join(map(str, own))}, or build an atlas of them",
            )
        return chosen

    @cached_property
    def _topic_numbers(self) -> dict[str, int]:
        """Return topic -> its number, in ascending order."""
        return {row["name"]: row["topic"] for row in self._records(TOPIC_NUMBERS)}

    def _neuron(self, name: str) -> dict[str, Any]:
        """Return the row of a neuron; raise ExperimentError if it is unknown."""
        site, _, unit = name.rpartition(".")
        if re.search(r"\d{10,}", name):  # too large for an INTEGER
            raise self._unknown_neuron(name)
        try:
            component, layer = parse_site(site)
        except SiteError:
            component, layer = "", None
        if layer is not None and re.fullmatch(r"[0-9]{1,9}", unit):
            rows = self._records(NEURON, [layer, int(unit), component])
            if rows:
                return rows[0]
        raise self._unknown_neuron(name)

    def _unknown_neuron(self, name: str) -> ExperimentError:
        known = [
            f"{component}.LAYER.UNIT with layers {first}-{last} and units 0-{unit}"
            for component, first, last, unit in map(dict.values, self._records(UNITS))
        ]
        near = self._nearest(name)
        hint = f" (did you mean '{near}'?)" if near else ""
        return ExperimentError(
            f"unknown neuron '{name}'{hint}", remedy=f"choose from {' and '.join(known)}"
        )

    def _nearest(self, name: str) -> str:
        """Return the neuron whose name is nearest to an unknown one; empty if none is near."""
        parts = re.fullmatch(r"(\w+)\.(\d{1,9})\.(\d{1,9})", name)
        rows = {row["component"]: list(row.values()) for row in self._records(UNITS)}
        component = get_close_matches(parts[1], rows, n=1) if parts else []
        if not parts or not component:
            return ""
        _, first, last, unit = rows[component[0]]
        layer = min(max(int(parts[2]), first), last)
        return f"{component[0]}.{layer}.{min(int(parts[3]), unit)}"
