"""Published figures beside the measured ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from neuroscope.files import absolute
from neuroscope.labels import model_label
from neuroscope.sites import Site
from neuroscope.studies.compare.experiment import PublishedFigures
from neuroscope.studies.compare.result import Comparison


@dataclass(frozen=True)
class PublishedCheck:
    """Published figures beside the measured ones, for one pair."""

    a: str
    b: str
    cosine: float
    mse: float
    published_cosine: float
    published_mse: float


@dataclass(frozen=True)
class PublishedChecks:
    """Published figures beside the measured ones, and a sentence on whether they apply."""

    checks: Sequence[PublishedCheck] = ()
    note: str = ""


def _same_model(a: str, b: str) -> bool:
    """Return whether two names stand for the same model, in any revision."""
    if absolute(a).is_dir() or absolute(b).is_dir():
        return absolute(a) == absolute(b)
    return a.partition("@")[0] == b.partition("@")[0]


def published_checks(published: PublishedFigures | None, comparison: Comparison) -> PublishedChecks:
    """Return the published figures beside the measured ones, if model and site are the same."""
    if published is None:
        return PublishedChecks()
    site = Site.parse(published.site)
    origin = f"The published figures ({published.source}) hold for {published.model} at {site}"
    if not _same_model(comparison.model, published.model):
        return PublishedChecks(
            note=f"{origin}; they do not apply to {model_label(comparison.model)}."
        )
    measured = {
        frozenset((row.a, row.b)): row
        for row in comparison.rows
        if (comparison.component, row.layer, row.view) == (site.component, site.layer, "aligned")
    }
    if not measured:
        return PublishedChecks(note=f"{origin}, which this run did not measure.")
    checks = [
        PublishedCheck(pair.a, pair.b, row.cosine, row.mse, pair.cosine, pair.mse)
        for pair in published.pairs
        if (row := measured.get(frozenset((pair.a, pair.b))))
    ]
    missing = len(published.pairs) - len(checks)
    not_compared = (
        f" {missing} of {len(published.pairs)} pairs are not compared here." if missing else ""
    )
    return PublishedChecks(checks, f"{origin}; aligned view.{not_compared}")
