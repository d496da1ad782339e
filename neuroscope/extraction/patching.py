"""Replacement of residual streams in a forward pass, by those of another model or prompt."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from neuroscope.errors import ModelError
from neuroscope.extraction.models import Model
from neuroscope.sites import Site

if TYPE_CHECKING:
    import torch


@contextmanager
def patched(model: Model, values: "Mapping[Site, torch.Tensor]") -> Iterator[None]:
    """Replace residual streams in every pass of a model within a `with` block.

    What a recorder reads at a site, and everything that follows it, is computed from the
    replacement.

    >>> with patched(candidate, {Site("resid_pre", 2): values}), Recorder(candidate, sites) as r:
    ...     arrays = r.run(inputs)

    Args:
        model: model from `load_model`, with its weights in memory.
        values: sites `resid_pre` and `resid_post` -> (batch, tokens, neurons) replacement, which is
            converted to the number format and moved to the device of the layer.

    Raises:
        ModelError: the model is streamed.
        SiteError: the model does not have a site.
        ValueError: a site is not that of a residual stream, or a replacement does not have the
            shape of what it replaces.
    """
    if model.streamed:
        raise ModelError(
            f"the residual streams of '{model.name}' cannot be replaced while its layers are read"
            " from their files",
            remedy="load it with all weights in memory",
        )
    model.check_sites(list(values))
    with model.lock, ExitStack() as attached:
        for site, replacement in values.items():
            attached.callback(_attach(model, site, replacement).remove)
        yield


def _attach(
    model: Model, site: Site, replacement: "torch.Tensor"
) -> "torch.utils.hooks.RemovableHandle":
    """Attach the hook that replaces a site; it runs before the hooks that record."""

    def before(
        module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (_fitted(replacement, args[0]), *args[1:]), kwargs
        states = _fitted(replacement, kwargs["hidden_states"])
        return args, kwargs | {"hidden_states": states}

    def after(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (_fitted(replacement, output[0]), *output[1:])
        return _fitted(replacement, output)

    layer = model.layer(site.layer)
    if site.component == "resid_pre":
        return layer.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
    if site.component == "resid_post":
        return layer.register_forward_hook(after, prepend=True)
    raise ValueError(f"{site} is not a residual stream")


def _fitted(replacement: "torch.Tensor", original: "torch.Tensor") -> "torch.Tensor":
    """Return a replacement in the number format and on the device of what it replaces."""
    if replacement.shape != original.shape:
        raise ValueError(
            f"a replacement has the shape {tuple(replacement.shape)} instead of"
            f" {tuple(original.shape)}"
        )
    return replacement.to(original.device, original.dtype)
