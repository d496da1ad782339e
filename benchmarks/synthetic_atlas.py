"""Random tables of an atlas of any size, in parts of one layer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from neuroscope.storage.atlas_schema import BINS, COVARIATES

LAYERS, PROMPTS = 32, 100_000
VOCABULARY, LENGTH = 32_000, 45  # tokens, and tokens per prompt
EXAMPLES = {"strongest": 10, "weakest": 5, "random": 5}
TOKENS = np.array([f"token{number}" for number in range(5000)])
_ERROR = 3e-4


@dataclass(frozen=True)
class Synthetic:
    """Atlas of random numbers, in which about one entry in a hundred is selective.

    >>> write_atlas("atlas.duckdb", Synthetic(neurons=458_752, topics=20).tables())
    """

    neurons: int
    """Number of neurons of all layers together, a multiple of the number of layers."""
    topics: int

    @property
    def units(self) -> int:
        """Number of neurons per layer."""
        return self.neurons // LAYERS

    def tables(self) -> Mapping[str, "pd.DataFrame | Iterator[pd.DataFrame]"]:
        """Return all tables; those with rows per neuron as iterators."""
        topics = range(self.topics)
        rng = np.random.default_rng(0)
        return {
            "model": self._model(),
            "prompt": self._prompts(rng),
            "token": pd.DataFrame({"token": range(VOCABULARY), "text": " word", "special": False}),
            "topic": self._topics(),
            "covariate": pd.DataFrame(
                [(topic, name, rng.random()) for topic in topics for name in COVARIATES],
                columns=["topic", "name", "auroc"],
            ),
            "neuron": map(self._neurons, range(LAYERS)),
            "selectivity": map(self._selectivity, range(LAYERS)),
            "example": map(self._examples, range(LAYERS)),
            "direction": pd.DataFrame(
                [(topic, layer, 0.95, layer, 0.9) for topic in topics for layer in range(LAYERS)],
                columns=["topic", "layer", "auroc_heldout", "best_neuron", "best_auroc"],
            ),
        }

    def _model(self) -> pd.DataFrame:
        texts = ("fingerprint", "architecture", "pool", "token_rule", "dtype", "attention")
        row: dict[str, Any] = {
            **dict.fromkeys((*texts, "prompts_digest", "created", "version"), "synthetic"),
            **{"name": "synthetic", "layers": LAYERS, "component": "mlp_act", "prompts": PROMPTS},
            **{"prompts_selection": PROMPTS // 2, "prompts_heldout": PROMPTS // 2},
            **{"split": "prompt", "seed": 0, "min_auroc": 0.75, "min_lift": 2.0, "max_q": 0.05},
            **{"min_one_vs_one": 0.65, "experiment": "{}", "notes": []},
        }
        return pd.DataFrame([row])

    def _prompts(self, rng: np.random.Generator) -> pd.DataFrame:
        words = TOKENS[rng.integers(0, len(TOKENS), (PROMPTS, 24))]
        return pd.DataFrame(
            {
                "prompt": range(PROMPTS),
                "id": [f"prompt{number}" for number in range(PROMPTS)],
                "text": [" ".join(row) for row in words],
                "source": "synthetic",
                "heldout": rng.random(PROMPTS) < 0.5,
                "tokens": rng.integers(5, 200, PROMPTS),
                "topics": [[number % self.topics] for number in range(PROMPTS)],
                "ids": list(rng.integers(0, VOCABULARY, (PROMPTS, LENGTH), dtype=np.int32)),
            }
        )

    def _topics(self) -> pd.DataFrame:
        numbers = range(self.topics)
        share, heldout = 1 / self.topics, PROMPTS // 2 // self.topics
        return pd.DataFrame(
            {
                **{"topic": numbers, "name": [f"topic {number}" for number in numbers]},
                **{"prompts": 2 * heldout, "prompts_heldout": heldout, "share": share},
                **{"separable": True, "reason": "", "selective": self.neurons // 100},
                "confounded": 0,
            }
        )

    def _neurons(self, layer: int) -> pd.DataFrame:
        rng, units = np.random.default_rng([1, layer]), np.arange(self.units)
        edges = np.sort(rng.normal(size=(self.units, BINS + 1)).astype("f4"))
        sd = np.abs(rng.normal(size=self.units)).astype("f4")
        quantiles = dict(zip(["q001", "q01", "q50", "q99", "q999"], edges.T[::13], strict=True))
        return pd.DataFrame(
            {
                **{"neuron": layer * self.units + units, "unit": units, "layer": layer},
                "name": [f"mlp_act.{layer}.{unit}" for unit in units],
                **{"component": "mlp_act", "mean": edges.mean(axis=1), "sd": sd, **quantiles},
                **{"low": edges[:, 0], "high": edges[:, -1], "active": rng.random(self.units)},
                **{"eta_squared": rng.random(self.units), "entropy": rng.random(self.units)},
                **{"entropy_selected": units % 100 == 0, "general": units % 1000 == 0},
                **{"promotes": self._tokens(rng), "suppresses": self._tokens(rng)},
                "neighbours": self._neighbours(rng),
                "edges": list(edges),
                "counts": list(rng.poisson(PROMPTS / BINS, (self.units, BINS))),
            }
        )

    def _tokens(self, rng: np.random.Generator) -> list[list[dict[str, Any]]]:
        tokens = TOKENS[rng.integers(0, len(TOKENS), (self.units, 10))].tolist()
        scores = rng.random((self.units, 10)).tolist()
        return [
            [{"token": token, "score": score} for token, score in zip(*pair, strict=True)]
            for pair in zip(tokens, scores, strict=True)
        ]

    def _neighbours(self, rng: np.random.Generator) -> list[list[dict[str, Any]]]:
        numbers = rng.integers(0, self.neurons, (self.units, 10)).tolist()
        return [
            [{"neuron": number, "cosine": 1 - rank / 10} for rank, number in enumerate(row)]
            for row in numbers
        ]

    def _selectivity(self, layer: int) -> pd.DataFrame:
        rng, rows = np.random.default_rng([2, layer]), self.units * self.topics
        neuron = layer * self.units + np.repeat(np.arange(self.units), self.topics)
        topic = np.tile(np.arange(self.topics), self.units)
        d = rng.normal(scale=0.4, size=rows)
        auroc = np.clip(0.5 + 0.28 * d, 0.01, 0.99)
        selective = np.abs(d) > 1.03  # about one in a hundred
        counts = np.full(rows, None, dtype=object)
        for row in np.flatnonzero(selective):
            counts[row] = rng.poisson(PROMPTS / self.topics / BINS, BINS)
        noise = rng.normal(scale=0.01, size=(4, rows))
        verified = np.full(rows, None, dtype=object)
        verified[selective & (rng.random(rows) < 0.1)] = "confirmed"
        return pd.DataFrame(
            {
                **{"neuron": neuron, "topic": topic, "auroc": auroc + noise[0], "d": d},
                **{"auroc_heldout": auroc + noise[1], "partial_auroc": auroc + noise[2]},
                **{"auroc_error": _ERROR * rng.random(rows), "ap_error": _ERROR * rng.random(rows)},
                **{"ap_heldout": rng.random(rows), "one_vs_one": auroc + noise[3]},
                **{"rival": rng.integers(0, self.topics, rows), "r": d / 5, "p": rng.random(rows)},
                **{"q": rng.random(rows), "polarity": np.sign(d), "selective": selective},
                **{"confounded": selective & (rng.random(rows) < 0.2), "counts": counts},
                **{"verified": verified, "effect": np.nan},
                **{"effect_low": np.nan, "effect_high": np.nan, "effect_p": np.nan},
            }
        )

    def _examples(self, layer: int) -> pd.DataFrame:
        rng = np.random.default_rng([3, layer])
        kinds = np.repeat(list(EXAMPLES), list(EXAMPLES.values()))
        ranks = np.concatenate([np.arange(count) for count in EXAMPLES.values()])
        rows = self.units * len(kinds)
        return pd.DataFrame(
            {
                "neuron": layer * self.units + np.repeat(np.arange(self.units), len(kinds)),
                **{"kind": np.tile(kinds, self.units), "rank": np.tile(ranks, self.units)},
                "prompt": rng.integers(0, PROMPTS, rows),
                "value": rng.normal(size=rows).astype("f4"),
                "position": rng.integers(0, LENGTH, rows),
                "token": TOKENS[rng.integers(0, len(TOKENS), rows)],
            }
        )
