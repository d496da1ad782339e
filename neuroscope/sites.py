"""Sites, the places in a model where activations are read: a component of a layer."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from neuroscope.errors import SiteError

COMPONENTS = {
    "resid_pre": "residual stream entering the layer",
    "attn_out": "output of attention, added to the residual stream (before any normalisation of the"
    " sum)",
    "mlp_act": "neurons in the strict sense: the input of the MLP's down-projection",
    "mlp_out": "output of the MLP's down-projection",
    "resid_post": "residual stream leaving the layer, hidden_states[layer + 1]",
    "final": "final representation: last_hidden_state, after the final norm if there is one",
    "logits": "scores of the vocabulary, computed by the language-model head",
}
"""Component -> its meaning, in the order in which a forward pass reaches them."""

LAYER_COMPONENTS = tuple(name for name in COMPONENTS if name not in ("final", "logits"))
"""Components that every layer has; the others exist once, after the last layer."""

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
"""TransformerLens hook name after `blocks.<layer>.` -> component."""


@dataclass(frozen=True)
class Site:
    """Component of a layer; layers count from 0.

    >>> Site.parse("resid_post.5")
    Site(component='resid_post', layer=5)
    >>> Site.parse("blocks.5.mlp.hook_post")  # the TransformerLens name
    Site(component='mlp_act', layer=5)
    """

    component: str
    layer: int

    def __str__(self) -> str:
        return f"{self.component}.{self.layer}"

    @property
    def needs_head(self) -> bool:
        """Whether only a model loaded with its language-model head has this site."""
        return self.component == "logits"

    @property
    def order(self) -> tuple[int, int]:
        """Key that sorts sites in the order in which a forward pass reaches them."""
        return self.layer, list(COMPONENTS).index(self.component)

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Return the site with a name such as `resid_post.5`.

        Raises:
            SiteError: the name is unknown or has no layer.
        """
        component, layer = parse_site(text)
        if layer is None:
            raise SiteError(f"site '{text}' has no layer", remedy=f"write, for example, '{text}.0'")
        return cls(component, layer)

    def check(self, count: int) -> None:
        """Raise SiteError unless a model of `count` layers has this site."""
        _resolve(self.layer, count)
        if self.component not in LAYER_COMPONENTS and self.layer != count - 1:
            raise SiteError(
                f"{self} does not exist: {self.component} comes after the last layer only",
                remedy=f"write '{self.component}' or '{self.component}.{count - 1}'",
            )


def parse_site(text: str, known: Collection[str] = COMPONENTS) -> tuple[str, int | None]:
    """Split a name such as `resid_post`, `resid_post.5` or an alias into component and layer.

    The layer is None if the name has none. An error lists the components in `known`.

    Raises:
        SiteError: the name is unknown.
    """
    alias = re.fullmatch(r"blocks\.(\d{1,9})\.(.+)", text)
    if alias and alias[2] in _ALIASES:
        return _ALIASES[alias[2]], int(alias[1])
    component, _, layer = text.partition(".")
    if component in COMPONENTS and re.fullmatch(r"\d{0,9}", layer) and not text.endswith("."):
        return component, int(layer) if layer else None
    near = get_close_matches(component, known, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near and near[0] != component else ""
    raise SiteError(
        f"unknown site '{text}'{hint}",
        remedy=f"choose from {', '.join(known)}, alone or with a layer, as in 'resid_post.2'"
        " (layers count from 0), or use a TransformerLens name such as 'blocks.2.mlp.hook_post'",
    )


@dataclass(frozen=True)
class Layers:
    """Choice of layers that applies to models of any depth.

    >>> Layers.parse("0-2,-1").resolve(12)
    (0, 1, 2, 11)
    """

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str | int | Sequence[int]) -> "Layers":
        """Parse layers from `all`, `3`, `0-5`, `2,4` or `-1` (the last), or from integers.

        Raises:
            SiteError: the text has none of these forms.
        """
        if not isinstance(text, str | int):
            text = ",".join(str(layer) for layer in text)
        parts = [part.strip() for part in str(text).split(",")]
        return cls(tuple(_parse_range(part, str(text)) for part in parts))

    def resolve(self, count: int) -> tuple[int, ...]:
        """Return the chosen layers of a model with `count` layers, in ascending order.

        Raises:
            SiteError: a layer does not exist, or a range is in descending order.
        """
        chosen: set[int] = set()
        for first, last in self.ranges:
            start, stop = _resolve(first, count), _resolve(last, count)
            if start > stop:
                raise SiteError(
                    f"layers {first}-{last} are in descending order",
                    remedy="write the lower layer first",
                )
            chosen.update(range(start, stop + 1))
        return tuple(sorted(chosen))


def _parse_range(part: str, text: str) -> tuple[int, int]:
    """Return the first and last layer of one part of a choice; `text` is the whole choice."""
    if part == "all":
        return 0, -1
    match = re.fullmatch(r"(-?\d+)(?:-(-?\d+))?", part)
    if not match:
        raise SiteError(
            f"cannot read layers '{text}'",
            remedy="write 'all', one layer ('3'), a range ('0-5'), a list ('2,4') or '-1' (the"
            " last)",
        )
    first = int(match[1])
    return first, int(match[2]) if match[2] else first


def _resolve(layer: int, count: int) -> int:
    """Return a layer counted from 0; raise SiteError if it does not exist."""
    if not -count <= layer < count:
        raise SiteError(
            f"layer {layer} does not exist: the model has {count} layers, 0 to {count - 1}"
            " (-1 is the last)"
        )
    return layer % count


def resolve_sites(
    sites: str | Sequence[str], layers: str | int | Sequence[int], count: int
) -> tuple[Site, ...]:
    """Return the named sites of a model with `count` layers, in the order of a forward pass.

    A name with a layer (`mlp_act.3`) stands for that site, a name without one (`mlp_act`) for the
    component at all of `layers`. `final` and `logits` exist after the last layer only and need no
    layer.

    Raises:
        SiteError: a name is unknown, a layer does not exist, or layers are given although no name
            needs them.
    """
    names = [sites] if isinstance(sites, str) else list(sites)
    if not names:
        raise SiteError("no sites were given", remedy=f"choose from {', '.join(COMPONENTS)}")
    parsed = [parse_site(name) for name in names]
    if layers != "all" and not any(_needs_layers(*name) for name in parsed):
        raise SiteError(
            f"layers '{layers}' apply only to sites that are named without a layer, but each of"
            f" {', '.join(names)} has its own",
            remedy="leave out the layers, or leave the layer out of a name",
        )
    resolved: set[Site] = set()
    for component, layer in parsed:
        default = layers if _needs_layers(component, layer) else count - 1
        chosen = Layers.parse(default if layer is None else layer).resolve(count)
        resolved.update(Site(component, index) for index in chosen)
    for site in resolved:
        site.check(count)
    return tuple(sorted(resolved, key=lambda site: site.order))


def _needs_layers(component: str, layer: int | None) -> bool:
    """Return whether a site, as named, exists in several layers."""
    return layer is None and component in LAYER_COMPONENTS
