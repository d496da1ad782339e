"""Silencing of neurons in a forward pass, and passes that start at a later layer."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroscope.errors import ModelError, SiteError
from neuroscope.extraction.models import Model
from neuroscope.extraction.patching import patched
from neuroscope.sites import LAYER_COMPONENTS, Site

if TYPE_CHECKING:
    import torch

Singles = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Replacement:
    """Constants that replace some neurons of a site at every token.

    >>> Replacement.of([57, 60], 0.0)                     # at every token
    >>> Replacement.of([57], 0.1, low=[0.8], high=[2.5])  # only where the value is within a range
    """

    units: NDArray[np.int64]
    """(units,) indices of the neurons, each once."""
    values: Singles
    """(units,) what replaces them."""
    low: Singles
    """(units,) smallest value that is replaced."""
    high: Singles
    """(units,) largest value that is replaced."""

    @classmethod
    def of(
        cls,
        units: ArrayLike,
        values: ArrayLike,
        *,
        low: ArrayLike = -np.inf,
        high: ArrayLike = np.inf,
    ) -> "Replacement":
        """Return a replacement; a single number applies to all of the neurons.

        Raises:
            ValueError: the same neuron is named twice, or shapes differ.
        """
        indices = np.atleast_1d(np.asarray(units, dtype=np.int64))
        if len(np.unique(indices)) < len(indices):
            raise ValueError(f"a neuron is replaced twice: {indices.tolist()}")
        numbers = (
            np.broadcast_to(np.asarray(each, dtype=np.float32), indices.shape).copy()
            for each in (values, low, high)
        )
        return cls(indices, *numbers)


@contextmanager
def silenced(model: Model, replacements: Mapping[Site, Replacement]) -> Iterator[None]:
    """Replace neurons by constants in every pass of a model within a `with` block.

    What a recorder reads at a site, and everything that follows it, is computed from the
    replacement. Replacing a neuron of `mlp_act` by 0 has the effect of setting its column of the
    down-projection to 0. Replacing a neuron only where its value lies in the range that it has on a
    topic changes less of what else it does (NeuronLens, arXiv 2502.06809).

    >>> with silenced(model, {Site("mlp_act", 3): Replacement.of([57], 0.0)}):
    ...     activations = extract(model, prompts, "final")

    Args:
        model: model from `load_model`, with its weights in memory.
        replacements: site -> neurons and what replaces them.

    Raises:
        ModelError: the model is streamed.
        SiteError: the model does not have a site or neuron, or the site is not in a layer.
    """
    check_replacements(model, replacements)
    with model.lock, ExitStack() as attached:
        for site, replacement in replacements.items():
            attached.callback(_attach(model, site, replacement).remove)
        yield


def check_replacements(model: Model, replacements: Mapping[Site, Replacement]) -> None:
    """Check that neurons can be silenced; raise ModelError or SiteError as `silenced` does."""
    if model.streamed:
        raise ModelError(
            f"the neurons of '{model.name}' cannot be silenced while its layers are read from their"
            " files",
            remedy="load it with all weights in memory",
        )
    for site, replacement in replacements.items():
        _check(model, site, replacement)


@contextmanager
def resumed(model: Model, layer: int, states: "torch.Tensor") -> Iterator[None]:
    """Start every pass within a `with` block at a layer; the layers before it do not run.

    Use it within `silenced` or a recorder, not around them, so that these see its states.

    Args:
        model: model from `load_model`, with its weights in memory.
        layer: first layer that runs.
        states: (batch, tokens, neurons) residual stream that enters it.

    Raises:
        ModelError: the model is streamed.
        SiteError: the model does not have the layer.
    """

    def unchanged(hidden_states: "torch.Tensor", *args: Any, **kwargs: Any) -> "torch.Tensor":
        return hidden_states

    with patched(model, {Site("resid_pre", layer): states}), ExitStack() as restored:
        for index in range(layer):
            restored.enter_context(_forward_replaced(model.layer(index), unchanged))
        yield


@contextmanager
def _forward_replaced(module: Any, forward: Any) -> Iterator[None]:
    """Replace what a module computes; accelerate may have done so before."""
    original = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if original is None:
            del module.forward
        else:
            module.forward = original


def _check(model: Model, site: Site, replacement: Replacement) -> None:
    """Raise SiteError unless the neurons of a site exist and can be replaced."""
    model.check_sites([site])
    if site.component not in LAYER_COMPONENTS:
        raise SiteError(
            f"the neurons of {site} cannot be silenced",
            remedy=f"choose from {', '.join(LAYER_COMPONENTS)}",
        )
    count = model.checkpoint.neurons(site.component)
    outside = replacement.units[(replacement.units < 0) | (replacement.units >= count)]
    if len(outside):
        raise SiteError(
            f"{site}.{outside[0]} does not exist: '{model.name}' has {count} neurons at {site}",
            remedy=f"choose from 0 to {count - 1}",
        )


def _attach(
    model: Model, site: Site, replacement: Replacement
) -> "torch.utils.hooks.RemovableHandle":
    """Attach the hook that replaces neurons; it runs before the hooks that record."""

    def before(
        module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (_replaced(replacement, args[0]), *args[1:]), kwargs
        states = _replaced(replacement, kwargs["hidden_states"])
        return args, kwargs | {"hidden_states": states}

    def after(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (_replaced(replacement, output[0]), *output[1:])
        return _replaced(replacement, output)

    architecture = model.architecture
    paths = {
        "attn_out": architecture.attn_out,
        "mlp_act": architecture.down,
        "mlp_out": architecture.down,
    }
    module = model.layer(site.layer).get_submodule(paths.get(site.component, ""))
    if site.component in ("resid_pre", "mlp_act"):
        return module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
    return module.register_forward_hook(after, prepend=True)


def _replaced(replacement: Replacement, x: "torch.Tensor") -> "torch.Tensor":
    """Return a copy of (batch, tokens, neurons) values in which neurons are replaced."""
    import torch

    units, values, low, high = (
        torch.from_numpy(array).to(x.device) for array in vars(replacement).values()
    )
    chosen = x[..., units]
    inside = (chosen >= low) & (chosen <= high)  # compared in float32
    result = x.clone()
    result[..., units] = torch.where(inside, values.to(x.dtype), chosen)
    return result
