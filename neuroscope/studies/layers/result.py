"""Result of a study of layers: one row per layer, and the similarity of every two layers."""

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from neuroscope.labels import counted, short_model, short_repr
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.tables import rows_to_frame
from neuroscope.studies.study import Shown

if TYPE_CHECKING:
    import pandas as pd

METRICS = {
    metric.name: metric
    for metric in (
        Metric("label_accuracy", "label", "accuracy of a linear probe for the label", digits=3),
        Metric("label_low", "low", "lower end of its 95 % interval", digits=3),
        Metric("label_high", "high", "upper end of its 95 % interval", digits=3),
        Metric(
            "label_control", "control", "accuracy of the same probe for shuffled labels", digits=3
        ),
        Metric("label_selectivity", "selectivity", "accuracy minus that of the control", digits=3),
        Metric("token_accuracy", "token", "accuracy of a linear probe for the token", digits=3),
        Metric("token_low", "low", "lower end of its 95 % interval", digits=3),
        Metric("token_high", "high", "upper end of its 95 % interval", digits=3),
        Metric(
            "token_control", "control", "accuracy of the same probe for shuffled tokens", digits=3
        ),
        Metric("token_selectivity", "selectivity", "accuracy minus that of the control", digits=3),
        Metric("cka_next", "CKA next", "debiased CKA with the next layer studied", digits=3),
        Metric("cka_last", "CKA last", "debiased CKA with the last layer studied", digits=3),
        Metric("norm", "norm", "mean Euclidean norm of a token", digits=2),
        Metric("anisotropy", "anisotropy", "mean cosine of tokens of different prompts", digits=3),
        Metric(
            "outlier_share",
            "outliers",
            "share of the neurons that are outliers, by their root mean square over tokens",
        ),
        Metric(
            "outlier_energy",
            "outlier energy",
            "share of the mean square activation that outliers carry",
            digits=3,
        ),
        Metric(
            "effective_rank",
            "rank",
            "effective rank of a prompt's tokens, mean over prompts",
            axis="effective rank",
            digits=2,
        ),
        Metric(
            "entropy",
            "entropy",
            "mean over prompts of the logarithm of the effective rank: entropy of order 2, in nats",
            digits=3,
        ),
        Metric(
            "curvature",
            "turn",
            "mean angle between steps from token to token, in degrees",
            axis="curvature (degrees)",
            digits=1,
        ),
        Metric("cosine", "cosine", "mean cosine over all pairs of prompts", digits=3),
        Metric("cosine_same", "same label", "mean cosine of prompts of the same label", digits=3),
        Metric(
            "cosine_other", "other label", "mean cosine of prompts of different labels", digits=3
        ),
        Metric(
            "cosine_z",
            "RMS cos z",
            "root mean square over all pairs of the cosine of standardised prompts",
            digits=3,
        ),
        Metric(
            "cosine_z_same",
            "same label z",
            "mean cosine of standardised prompts of the same label",
            digits=3,
        ),
        Metric(
            "cosine_z_other",
            "other label z",
            "mean cosine of standardised prompts of different labels",
            digits=3,
        ),
    )
}
"""Name -> metric, in the order of the columns."""


@dataclass(frozen=True)
class LayerRow:
    """Metrics of one layer; NaN where there is no value, for example without a label."""

    layer: int
    depth: float  # in per cent of the model's layers
    label_accuracy: float
    label_low: float
    label_high: float
    label_control: float
    label_selectivity: float
    token_accuracy: float
    token_low: float
    token_high: float
    token_control: float
    token_selectivity: float
    cka_next: float
    cka_last: float
    norm: float
    anisotropy: float
    outlier_share: float
    outlier_energy: float
    effective_rank: float
    entropy: float
    curvature: float
    cosine: float
    cosine_same: float
    cosine_other: float
    cosine_z: float
    cosine_z_same: float
    cosine_z_other: float


@dataclass(frozen=True)
class ProbeBaselines:
    """Values that the probes of every layer are compared with; NaN where there is no probe."""

    label: str
    """Name of the label; empty if there is none."""
    label_values: int
    """Number of its values."""
    label_chance: float
    """Share of the most frequent value among the held-out prompts."""
    label_tokens: float
    """Accuracy of a probe on how often each token occurs in a prompt."""
    label_heldout: int
    """Number of prompts that the probes for the label are tested on."""
    token_values: int
    """Number of tokens among which the probes for token identity choose."""
    token_chance: float
    """Share of the most frequent token among the held-out tokens."""
    token_heldout: int
    """Number of tokens that the probes for token identity are tested on."""


@dataclass(frozen=True, eq=False)
class LayersResult(Shown):
    """Result of a study of layers: how information evolves through the layers of one model.

    >>> result = ns.layers(model, prompts)
    >>> result.to_frame()[["layer", "label_accuracy", "anisotropy"]]
    >>> result.cka   # (layers, layers)
    """

    kind: ClassVar[str] = "layers"

    model: str
    component: str
    prompts: int
    """Number of prompts."""
    rows: tuple[LayerRow, ...]
    cka: NDArray[np.float64]
    """Debiased CKA of every two layers, (layers, layers), in the order of `rows`."""
    baselines: ProbeBaselines
    headline: str
    """One sentence that summarises the result."""
    notes: tuple[str, ...] = ()
    """Sentences on what limits the meaning of the values."""
    run_id: str | None = None
    """Id of the MLflow run; None if the result was not recorded."""

    def __repr__(self) -> str:
        counts = f"{counted(len(self.layers), 'layer')}, {counted(self.prompts, 'prompt')}"
        source = f"{short_model(self.model)}, {self.component}"
        return short_repr(self, f"{source}, {counts}: {self.headline}")

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that were studied, in order."""
        return tuple(row.layer for row in self.rows)

    def column(self, name: str) -> list[float]:
        """Return the values of a metric at every layer."""
        return [getattr(row, name) for row in self.rows]

    def to_frame(self) -> "pd.DataFrame":
        """Return a data frame with one row per layer."""
        return rows_to_frame(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values: an entry of `runs` in the JSON document."""
        return {
            "run_id": self.run_id,
            "model": self.model,
            "site": self.component,
            "prompts": self.prompts,
            "headline": self.headline,
            "notes": list(self.notes),
            "baselines": asdict(self.baselines),
            "rows": [asdict(row) for row in self.rows],
            "cka": self.cka.tolist(),
        }


def measured(name: str, rows: tuple[LayerRow, ...]) -> bool:
    """Return whether a metric has a value at any layer."""
    return any(getattr(row, name) == getattr(row, name) for row in rows)


assert [field.name for field in fields(LayerRow)][2:] == list(METRICS)
