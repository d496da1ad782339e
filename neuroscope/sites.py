"""Where in a model an activation is read: a component of a layer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from neuroscope.errors import SiteError

COMPONENTS = {
    "resid_pre": "residual stream entering the layer",
    "attn_out": "what attention adds to the residual stream (before any normalisation of the sum)",
    "mlp_act": "neurons in the strict sense: the input of the MLP's down-projection",
    "mlp_out": "output of the MLP's down-projection",
    "resid_post": "residual stream leaving the layer, hidden_states[layer + 1]",
}
"""Component -> what it is, in the order in which a forward pass reaches them."""

_ALIASES = {
    "hook_resid_pre": "resid_pre",
    "hook_in": "resid_pre",
    "hook_attn_out": "attn_out",
    "attn.hook_out": "attn_out",
    "mlp.hook_post": "mlp_act",
    "mlp.out.hook_in": "mlp_act",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_out": "mlp_out",
    "hook_resid_post": "resid_post",
    "hook_out": "resid_post",
}
"""TransformerLens hook name inside `blocks.<layer>.` -> component."""


@dataclass(frozen=True)
class Site:
    """One component of one layer, layers counted from 0.

    >>> Site.parse("resid_post.5")
    Site(component='resid_post', layer=5)
    >>> Site.parse("blocks.5.mlp.hook_post")  # as TransformerLens names it
    Site(component='mlp_act', layer=5)
    """

    component: str
    layer: int

    def __str__(self) -> str:
        return f"{self.component}.{self.layer}"

    @property
    def order(self) -> tuple[int, int]:
        """Sorts sites in the order in which a forward pass reaches them."""
        return self.layer, list(COMPONENTS).index(self.component)

    @classmethod
    def parse(cls, text: str) -> "Site":
        """The site that `text` names.

        Raises:
            SiteError: the name is unknown, or names no layer.
        """
        component, layer = parse_site(text)
        if layer is None:
            raise SiteError(f"site '{text}' names no layer: write for example '{component}.0'")
        return cls(component, layer)


def parse_site(text: str) -> tuple[str, int | None]:
    """Component and layer (None where not given) of `resid_post`, `resid_post.5` or an alias.

    Raises:
        SiteError: the name is unknown.
    """
    alias = re.fullmatch(r"blocks\.(\d+)\.(.+)", text)
    if alias and alias[2] in _ALIASES:
        return _ALIASES[alias[2]], int(alias[1])
    component, _, layer = text.partition(".")
    if component in COMPONENTS and re.fullmatch(r"\d*", layer) and not text.endswith("."):
        return component, int(layer) if layer else None
    raise SiteError(_unknown_site(text, component))


def _unknown_site(text: str, component: str) -> str:
    near = get_close_matches(component, COMPONENTS, n=1)
    hint = f" Did you mean '{near[0]}'?" if near and near[0] != component else ""
    known = ", ".join(COMPONENTS)
    return (
        f"unknown site '{text}'.{hint} Sites are {known}, each alone or with a layer, as in"
        " 'resid_post.2' (layers count from 0), or TransformerLens names such as"
        " 'blocks.2.mlp.hook_post'"
    )


@dataclass(frozen=True)
class Layers:
    """A choice of layers, independent of how many a model has.

    >>> Layers.parse("0-2,-1").resolve(12)
    (0, 1, 2, 11)
    """

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str | int | Sequence[int]) -> "Layers":
        """Layers from `all`, `3`, `0-5`, `2,4` or `-1` (the last), or from integers.

        Raises:
            SiteError: the text is none of these.
        """
        if not isinstance(text, str | int):
            text = ",".join(str(layer) for layer in text)
        parts = [part.strip() for part in str(text).split(",")]
        return cls(tuple(_parse_range(part, str(text)) for part in parts))

    def resolve(self, count: int) -> tuple[int, ...]:
        """These layers, ascending, in a model that has `count` of them.

        Raises:
            SiteError: a layer is beyond the model's last, or a range runs backwards.
        """
        chosen: set[int] = set()
        for first, last in self.ranges:
            start, stop = _resolve(first, count), _resolve(last, count)
            if start > stop:
                raise SiteError(f"layers {first}-{last} run backwards: write the lower layer first")
            chosen.update(range(start, stop + 1))
        return tuple(sorted(chosen))


def _parse_range(part: str, text: str) -> tuple[int, int]:
    if part == "all":
        return 0, -1
    match = re.fullmatch(r"(-?\d+)(?:-(-?\d+))?", part)
    if not match:
        raise SiteError(
            f"cannot read layers '{text}': write 'all', one layer ('3'), a range ('0-5'),"
            " a list ('2,4') or '-1' for the last"
        )
    first = int(match[1])
    return first, int(match[2]) if match[2] else first


def _resolve(layer: int, count: int) -> int:
    if not -count <= layer < count:
        raise SiteError(
            f"layer {layer} does not exist: the model has {count} layers, 0 to {count - 1}"
            f" (-1 is the last)"
        )
    return layer % count


def resolve_sites(
    sites: str | Sequence[str], layers: str | int | Sequence[int], count: int
) -> tuple[Site, ...]:
    """The sites meant, in forward order, in a model of `count` layers.

    A name with a layer (`mlp_act.3`) means that site; one without (`mlp_act`) means it at
    `layers`.

    Raises:
        SiteError: a name is unknown, a layer does not exist, or layers are given where every name
            has its own.
    """
    names = [sites] if isinstance(sites, str) else list(sites)
    if not names:
        raise SiteError(f"no sites were given: name at least one of {', '.join(COMPONENTS)}")
    parsed = [parse_site(name) for name in names]
    if layers != "all" and all(layer is not None for _, layer in parsed):
        raise SiteError(
            f"layers '{layers}' are for sites named without one, and each of {', '.join(names)} has"
            " its own: leave out one or the other"
        )
    found: set[Site] = set()
    for component, layer in parsed:
        wanted = Layers.parse(layers if layer is None else layer).resolve(count)
        found.update(Site(component, index) for index in wanted)
    return tuple(sorted(found, key=lambda site: site.order))
