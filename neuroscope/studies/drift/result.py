"""Result of a study of drift."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from neuroscope.labels import counted, model_label, short_repr
from neuroscope.reporting.tables import rows_to_frame
from neuroscope.stats.divergence import KLSummary
from neuroscope.studies.drift.agreement import Decision, SiteAgreement
from neuroscope.studies.drift.changed_prompts import PromptDrift, rounded
from neuroscope.studies.drift.explanation import TokenDrift, TopicDrift, TopicTokens
from neuroscope.studies.drift.neurons import NeuronDrift
from neuroscope.studies.drift.positions import Positions
from neuroscope.studies.drift.readers import Reader
from neuroscope.studies.drift.rewording import Rewording
from neuroscope.studies.study import Shown

if TYPE_CHECKING:
    import pandas as pd

Basis = Literal["files", "neurons", "representations"]
"""What the decision is based on: `files` that are equal, `neurons` that correspond to each other,
or `representations` of models whose neurons do not correspond."""


ASSOCIATION_CHANGED = 0.05
"""Largest q-value of an association that is said to have changed."""


@dataclass(frozen=True)
class AssociationDrift:
    """Controlled contrast of the words of one role and two groups, in both models."""

    layer: int
    role: str
    group_a: str
    group_b: str
    base: float
    candidate: float
    change: float
    """Candidate minus base, mean over templates."""
    low: float
    """Lower end of its 95 % interval over templates."""
    high: float
    p: float
    """p-value of a sign-flip test over templates."""
    q: float
    """p-value corrected over all associations and layers."""
    n: int
    """Number of templates."""

    @property
    def changed(self) -> bool:
        """Whether the change is more than chance; never without a q-value."""
        return self.q < ASSOCIATION_CHANGED


@dataclass(frozen=True)
class PartRow:
    """Difference between the weights of one part of two models."""

    part: str
    """`embeddings`, the number of a layer, `final` or `head`."""
    equal: int
    """Number of tensors with the same values."""
    changed: int
    """Number of tensors with other values, in another shape, or in one model only."""
    relative_norm: float
    """Norm of the change, relative to that of the base; NaN if it is not known."""
    rank: float
    """Median rank of the changes of matrices; NaN if none changed."""


@dataclass(frozen=True)
class FinalChange:
    """Change of the final representations, where there is no language-model head."""

    mean: float
    """Mean over tokens of 1 - cosine."""
    median: float
    q99: float
    maximum: float


@dataclass(frozen=True, eq=False)
class Topics:
    """Change by topic."""

    rows: tuple[TopicDrift, ...]
    names: tuple[str, ...] = ()
    """Topics of the rows of `changes`, in the order of `rows`; empty if the neurons of the models
    do not correspond."""
    changes: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    """(topics, layers) root mean squared change of the deciding neurons, in standard deviations."""


@dataclass(frozen=True, eq=False)
class Patching:
    """How much of the change of the outputs returns with the old residual stream at one place."""

    sites: tuple[str, ...]
    """Sites of the residual stream; the first is the input of the first layer."""
    returned: tuple[float, ...]
    """Share of the divergence of the outputs that disappears: 1 at most, and negative if the patch
    makes it larger."""
    errors: tuple[float, ...]
    """Standard errors of the shares, from a jackknife over prompts."""
    prompts: int


@dataclass(frozen=True, eq=False)
class Explanation:
    """What has changed, where, and on which texts."""

    topics: Topics | None = None
    neurons: tuple[NeuronDrift, ...] = ()
    prompts: tuple[PromptDrift, ...] = ()
    regressed: int = 0
    """Number of prompts whose tokens the candidate expects noticeably less than the base."""
    improved: int = 0
    """Number of prompts whose tokens it expects noticeably more."""
    patching: Patching | None = None
    tokens_up: tuple[TokenDrift, ...] = ()
    """Tokens that the candidate expects more often than the base does."""
    tokens_down: tuple[TokenDrift, ...] = ()
    topic_tokens: tuple[TopicTokens, ...] = ()
    """The same by topic, for the first topics; empty with fewer than two topics."""
    positions: Positions | None = None


@dataclass(frozen=True, eq=False)
class DriftResult(Shown):
    """Result of a check of whether a candidate may replace a base.

    >>> result = ns.drift("models:/news@champion", "models:/news/4", ns.read_prompts("topics.csv"))
    >>> result.decision.verdict
    'compatible'
    """

    kind: ClassVar[str] = "drift"

    base: str
    """Name of the base, as given."""
    model: str
    """Name of the candidate, as given."""
    prompts: int
    """Number of prompts."""
    site: str
    """Component whose neurons decide."""
    basis: Basis
    decision: Decision
    differences: tuple[str, ...]
    """Differences of the files in words."""
    parts: tuple[PartRow, ...]
    rewordings: tuple[Rewording, ...] = ()
    sites: tuple[SiteAgreement, ...] = ()
    behaviour: KLSummary | FinalChange | None = None
    readers: tuple[Reader, ...] = ()
    explanation: Explanation | None = None
    headline: str = ""
    """Sentence with the verdict."""
    summary: str = ""
    """Paragraph on what has changed, where, and on which texts."""
    notes: tuple[str, ...] = ()
    """Sentences on what has changed since the run of which the experiment is a copy."""
    associations: tuple[AssociationDrift, ...] = ()
    """Associations in both models, those that changed most first."""
    left_out: tuple[str, ...] = ()
    """Sentences on which measures were left out, and why."""
    run_id: str | None = None
    bounded: bool = False
    """Whether KL divergences are lower bounds, as the outputs of the base were recorded."""
    labels: tuple[str, str] | None = None
    """Display names of base and candidate, if they differ from those that follow from the names."""

    @property
    def names(self) -> tuple[str, str]:
        """Display names of base and candidate."""
        return self.labels or (model_label(self.base), model_label(self.model))

    @property
    def title(self) -> str:
        """Display names of both models, the candidate first."""
        base, candidate = self.names
        return f"{candidate} against {base}"

    def __repr__(self) -> str:
        return short_repr(self, f"{counted(self.prompts, 'prompt')}: {self.headline}")

    def to_frame(self) -> "pd.DataFrame":
        """Return a data frame with one row per site."""
        return rows_to_frame(self.sites)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values: the JSON document of `neuroscope drift`."""
        decision = asdict(self.decision)
        explanation = self.explanation
        topics = explanation.topics if explanation else None
        return {
            **decision,
            "run_id": self.run_id,
            "base": self.base,
            "candidate": self.model,
            "site": self.site,
            "prompts": self.prompts,
            "basis": self.basis,
            "headline": self.headline,
            "summary": self.summary,
            "notes": list(self.notes),
            "left_out": list(self.left_out),
            "differences": list(self.differences),
            "parts": [asdict(row) for row in self.parts],
            "rewordings": _entries(self.rewordings),
            "layers": [_site_entry(row) for row in self.sites],
            "behaviour": asdict(self.behaviour) if self.behaviour else None,
            "behaviour_is_lower_bound": self.bounded,
            "readers": [asdict(reader) for reader in self.readers],
            "associations": _entries(self.associations),
            "topics": _entries(topics.rows) if topics else [],
            "topics_by_layer": _matrix(topics) if topics else [],
            "neurons": _entries(explanation.neurons) if explanation else [],
            "changed_prompts": _entries(explanation.prompts) if explanation else [],
            "regressed": explanation.regressed if explanation else 0,
            "improved": explanation.improved if explanation else 0,
            "patching": asdict(explanation.patching)
            if explanation and explanation.patching
            else None,
            "tokens_up": _entries(explanation.tokens_up) if explanation else [],
            "tokens_down": _entries(explanation.tokens_down) if explanation else [],
            "tokens_by_topic": _entries(explanation.topic_tokens) if explanation else [],
            "positions": explanation.positions.to_dict()
            if explanation and explanation.positions
            else None,
        }


def _entries(rows: Any) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def _matrix(topics: Topics) -> list[dict[str, Any]]:
    """Return the change of the neurons by topic and layer, an entry per topic."""
    return [
        {"topic": name, "changes": row}
        for name, row in zip(topics.names, rounded(topics.changes).tolist(), strict=True)
    ]


def _site_entry(row: SiteAgreement) -> dict[str, Any]:
    """Return a row of `layers` in the JSON document."""
    entries = asdict(row)
    component, layer = entries.pop("component"), entries.pop("layer")
    site = {"site": component, "layer": layer, "r_median": 1 - row.one_minus_r}
    return site | entries
