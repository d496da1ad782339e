"""A small atlas: random tables that agree with each other."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuroscope.storage.atlas_file import Atlas
from neuroscope.storage.atlas_schema import BINS, COVARIATES, ORDER, TABLES
from neuroscope.storage.atlas_writing import write_atlas

HOSTILE = "'; DROP TABLE topic; --"
TOPICS = ["Sports", "World", HOSTILE, "Économie 📈"]
LAYERS, UNITS, PROMPTS = 3, 8, 20
NEURONS = LAYERS * UNITS
LONGEST = 40
WORDS = ["[CLS]", *(f" word{number}" for number in range(8))]

Tables = dict[str, pd.DataFrame]


def atlas_tables(seed: int = 0) -> Tables:
    """Return the tables of a model with 3 layers of 8 neurons, 4 topics and 20 prompts."""
    rng = np.random.default_rng(seed)
    selectivity = selectivity_table(rng)
    return {
        "model": model_table(),
        "prompt": prompt_table(rng),
        "token": pd.DataFrame({"token": range(9), "text": WORDS, "special": [True] + [False] * 8}),
        "topic": topic_table(selectivity),
        "covariate": covariate_table(rng),
        "neuron": neuron_table(rng),
        "selectivity": selectivity,
        "example": example_table(rng),
        "direction": direction_table(rng, selectivity),
    }


def write_small_atlas(path: Path, **changes: pd.DataFrame) -> Tables:
    """Write the tables, some of them replaced, and return them."""
    tables = atlas_tables() | changes
    write_atlas(path, tables)
    return tables


def model_table() -> pd.DataFrame:
    """Return the table `model`."""
    texts = dict.fromkeys(["fingerprint", "architecture", "pool", "token_rule", "dtype"], "x")
    return pd.DataFrame(
        [
            {
                **texts,
                **{"name": "tiny", "layers": LAYERS, "component": "mlp_act", "attention": "eager"},
                **{"prompts_digest": "d" * 64, "prompts": PROMPTS, "prompts_selection": 10},
                **{"prompts_heldout": 10, "split": "prompt", "seed": 0, "min_auroc": 0.75},
                **{"min_lift": 2.0, "min_one_vs_one": 0.65, "max_q": 0.05, "version": "0.1.0"},
                **{"created": "2025-01-01T00:00:00+00:00", "experiment": '{"seed": 0}'},
                "notes": ["first", "second"],
            }
        ]
    )


def prompt_table(rng: np.random.Generator) -> pd.DataFrame:
    """Return the table `prompt`."""
    return pd.DataFrame(
        {
            "prompt": range(PROMPTS),
            "id": [f"id{number}" for number in range(PROMPTS)],
            "text": [f"text of prompt {number}" for number in range(PROMPTS)],
            "source": ["news", None] * (PROMPTS // 2),
            "heldout": rng.random(PROMPTS) < 0.5,
            "tokens": rng.integers(1, 40, PROMPTS),
            "ids": [[0, *rng.integers(1, 9, LONGEST)] for _ in range(PROMPTS)],
            "topics": [[number % len(TOPICS)] for number in range(PROMPTS)],
        }
    )


def topic_table(selectivity: pd.DataFrame) -> pd.DataFrame:
    """Return the table `topic`, which counts the selective entries."""
    selective = selectivity[selectivity["selective"]]
    counts = selective.groupby("topic")["confounded"].agg(["size", "sum"])
    counts = counts.reindex(range(len(TOPICS)), fill_value=0)
    return pd.DataFrame(
        {
            "topic": range(len(TOPICS)),
            "name": TOPICS,
            "prompts": 5,
            "prompts_heldout": 3,
            "share": 0.3,
            "separable": [True, True, True, False],
            "reason": ["", "", "", "it has a source of its own"],
            "selective": counts["size"].to_numpy(),
            "confounded": counts["sum"].to_numpy(),
        }
    )


def covariate_table(rng: np.random.Generator) -> pd.DataFrame:
    """Return the table `covariate`, in which one AUROC is not defined."""
    rows = list(product(range(len(TOPICS)), COVARIATES))
    frame = pd.DataFrame(rows, columns=["topic", "name"])
    return frame.assign(auroc=[*rng.random(len(rows) - 1), np.nan])


def neuron_table(rng: np.random.Generator) -> pd.DataFrame:
    """Return the table `neuron`."""
    numbers = np.arange(NEURONS)
    reals = ["mean", "sd", "low", "high", "q001", "q01", "q50", "q99", "q999", "active"]
    tokens = [{"token": "goal", "score": 1.5}, {"token": " ball", "score": 0.5}]
    near = [
        [{"neuron": (number + step) % NEURONS, "cosine": 1 - step / 4} for step in (1, 2)]
        for number in range(NEURONS)
    ]
    return pd.DataFrame(
        {
            "neuron": numbers,
            "name": [f"mlp_act.{number // UNITS}.{number % UNITS}" for number in numbers],
            "component": "mlp_act",
            "layer": numbers // UNITS,
            "unit": numbers % UNITS,
            **{name: rng.normal(size=NEURONS).astype("f4") for name in (*reals, "eta_squared")},
            "entropy": np.where(numbers % 2, np.nan, 0.5),
            "entropy_selected": [None if number % 2 else True for number in numbers],
            "general": numbers % 5 == 0,
            "promotes": [tokens] * NEURONS,
            "suppresses": [None] * NEURONS,
            "neighbours": near,
            "edges": list(np.sort(rng.normal(size=(NEURONS, BINS + 1))).astype("f4")),
            "counts": list(rng.integers(0, 9, (NEURONS, BINS))),
        }
    )


def selectivity_table(rng: np.random.Generator) -> pd.DataFrame:
    """Return the table `selectivity`; about half of the entries are selective."""
    rows = list(product(range(NEURONS), range(len(TOPICS))))
    count = len(rows)
    reals = ["auroc", "auroc_heldout", "auroc_error", "ap_heldout", "ap_error", "one_vs_one"]
    effects = ["effect", "effect_low", "effect_high", "effect_p"]
    frame = pd.DataFrame(rows, columns=["neuron", "topic"])
    values = [*reals, "d", "r", "p", "q", "partial_auroc", *effects]
    frame = frame.assign(**{name: rng.random(count).astype("f4") for name in values})
    selective = rng.random(count) < 0.5
    verdicts = ["confirmed", "not confirmed", "general", None]
    counts = rng.integers(0, 9, (count, BINS))
    return frame.assign(
        rival=(frame["topic"] + 1) % len(TOPICS),
        polarity=np.where(frame["auroc_heldout"] > 0.5, 1, -1),
        confounded=rng.random(count) < 0.3,
        selective=selective,
        counts=[row if kept else None for row, kept in zip(counts, selective, strict=True)],
        verified=[verdicts[index] for index in rng.integers(0, 4, count)],
    )


def example_table(rng: np.random.Generator) -> pd.DataFrame:
    """Return the table `example`, with two prompts per neuron and kind."""
    rows = list(product(range(NEURONS), ["strongest", "weakest", "random"], range(2)))
    frame = pd.DataFrame(rows, columns=["neuron", "kind", "rank"])
    return frame.assign(
        prompt=rng.integers(0, PROMPTS, len(rows)),
        value=rng.normal(size=len(rows)).astype("f4"),
        position=rng.integers(0, 9, len(rows)),
        token="ball",
    )


def direction_table(rng: np.random.Generator, selectivity: pd.DataFrame) -> pd.DataFrame:
    """Return the table `direction`, with the best neuron of each topic and layer."""
    layers = (selectivity["neuron"] // UNITS).rename("layer")
    best = selectivity.loc[selectivity.groupby(["topic", layers])["auroc_heldout"].idxmax()]
    best = best.reset_index(drop=True)
    return pd.DataFrame(
        {
            "topic": best["topic"],
            "layer": best["neuron"] // UNITS,
            "auroc_heldout": rng.random(len(best)).astype("f4"),
            "best_neuron": best["neuron"],
            "best_auroc": best["auroc_heldout"],
        }
    )


def assert_same(atlas: Atlas, tables: Tables) -> None:
    """Check that an atlas holds the tables, sorted."""
    for name, columns in TABLES.items():
        stored = atlas.sql(f"FROM {name} ORDER BY rowid")
        assert list(stored) == [column.name for column in columns]
        keys = [key for key in ORDER[name] if key in stored]  # the neurons are of a single block
        expected = tables[name].sort_values(keys)
        assert records(stored) == records(expected)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame as dictionaries of plain values."""
    return plain(frame.to_dict("records"))


def plain(value: Any) -> Any:
    """Return a value of a cell such that equal values, and missing ones, compare as equal."""
    if isinstance(value, np.ndarray | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return None if pd.isna(value) else value
