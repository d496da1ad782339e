"""Reports as single HTML pages that need no other files; all studies extend one base page."""

import base64
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from neuroscope.reporting.tables import Table, number

if TYPE_CHECKING:
    from jinja2 import Environment


class NamedFigure(NamedTuple):
    """Figure with its file name and its caption."""

    name: str
    caption: str
    figure: Any


@dataclass(frozen=True)
class PageFigure:
    """Figure in a page, with its caption."""

    name: str
    caption: str
    png: bytes

    @property
    def source(self) -> str:
        """Image as a data URL, so that the page needs no other file."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Page:
    """Contents of the base page, around the part of a study."""

    title: str
    headline: str
    """Sentence that states the main result; empty if there is none."""
    note: str
    """Note of the experiment, such as the question that it asks."""
    warnings: Sequence[str]
    """Warnings, each without its full stop."""
    provenance: Mapping[str, Any]
    links: Mapping[str, str]
    """Addresses of related pages, by their names."""
    date: datetime.datetime
    site: str = ""
    """Sentence that says which site was read; empty to leave it out."""


def render_page(template: tuple[str, str], page: Page, **parts: Any) -> str:
    """Return the page of a study as HTML, in which all values are escaped.

    Args:
        template: package and file name of a template that extends `base.html.j2`, such as
            `("neuroscope.studies.compare", "page.html.j2")`.
        page: contents of the base page.
        parts: values for the study's template.
    """
    package, name = template
    return _environment(package).get_template(name).render(page=page, **parts)


def table_html(table: Table) -> str:
    """Return a table with its title and notes as HTML, in which all values are escaped."""
    template = _environment("neuroscope.reporting").get_template("one_table.html.j2")
    return template.render(table=table)


def _environment(package: str) -> "Environment":
    """Return the environment of the templates in a package and of those that all studies share."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader(package, ""), PackageLoader("neuroscope.reporting", "pages")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment
