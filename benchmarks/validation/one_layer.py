"""Changes of a single layer: the local distance must be 0 elsewhere, and patching must find it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import table
from benchmarks.validation.changes import add_noise, copy_model
from benchmarks.validation.checks import FEW, Base
from benchmarks.validation.outcome import Outcome, figure
from neuroscope.studies.drift.result import DriftResult, Patching

NOISE = 0.3
"""Standard deviation of the noise in the changed layer, by that of each matrix."""
HEADER = (
    "model",
    "changed layer",
    "local, this layer",
    "local, largest of the others",
    "propagated, layers below",
    "propagated, layers above",
    "layer found by patching",
    "returned before",
    "returned after",
)
_COMPONENTS = ("mlp_act", "resid_post")


@dataclass(frozen=True)
class Located:
    """What a check says of a model of which one layer has changed."""

    model: str
    layer: int
    """The changed layer."""
    local: float
    """Smallest local distance of its components."""
    others: float
    """Largest local distance of all other layers."""
    below: float
    """Largest propagated distance of the layers before the changed one; 0 if there is none."""
    above: float
    """Smallest propagated distance of the changed layer and those after it."""
    patched: int
    """Layer after which patching returns most more than before it."""
    before: float
    """Share of the change that returns with the base's residual stream before the changed layer."""
    after: float
    """The same after the changed layer."""

    @property
    def holds(self) -> bool:
        """Whether local distance and patching locate the change."""
        return self.local > 0 and self.others == 0 and self.patched == self.layer

    def cells(self) -> list[str]:
        """Return the row of the table."""
        distances = map(figure, (self.local, self.others, self.below, self.above))
        shares = f"{self.before:.4f}", f"{self.after:.4f}"
        return [self.model, str(self.layer), *distances, str(self.patched), *shares]


def locate(
    base: Base, label: str, source: Path, folder: Path, layers: Sequence[int]
) -> list[Located]:
    """Change one layer of a model at a time, and return what a check says.

    Args:
        base: the model, with the prompts.
        label: name of the model in the table.
        source: folder of its files.
        folder: folder for the changed copies, each of which is deleted after its check.
        layers: layers to change.
    """
    rows = []
    for layer in layers:
        candidate = copy_model(source, folder / f"layer-{layer}", add_noise(NOISE), layer)
        rows.append(located(label, layer, base.check(candidate, **FEW)))
        shutil.rmtree(candidate)
    return rows


def located(label: str, layer: int, result: DriftResult) -> Located:
    """Return where a check locates the change of one layer."""
    sites = [site for site in result.sites if site.component in _COMPONENTS]
    assert result.explanation is not None and result.explanation.patching is not None
    returned = result.explanation.patching.returned
    return Located(
        label,
        layer,
        local=min(site.local for site in sites if site.layer == layer),
        others=max(site.local for site in sites if site.layer != layer),
        below=max([site.one_minus_r for site in sites if site.layer < layer], default=0.0),
        above=min(site.one_minus_r for site in sites if site.layer >= layer),
        patched=most_returned(result.explanation.patching),
        before=returned[layer],
        after=returned[layer + 1],
    )


def most_returned(patching: Patching) -> int:
    """Return the layer at which the share that returns grows most; the first site is its input."""
    growth = [
        after - before
        for before, after in zip(patching.returned, patching.returned[1:], strict=False)
    ]
    return growth.index(max(growth))


def outcome(rows: Sequence[Located]) -> Outcome:
    """Return the table; a change that is not located is a failure."""
    failures = [
        f"{row.model}: the change of layer {row.layer} is not located"
        for row in rows
        if not row.holds
    ]
    return Outcome(table(HEADER, [row.cells() for row in rows]), tuple(failures))
