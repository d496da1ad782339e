"""Reads activations with hooks that live only inside a `with` block."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from neuroscope.extraction.models import Model
from neuroscope.sites import Site

if TYPE_CHECKING:
    import torch

Keep = Callable[["torch.Tensor"], Any]
"""What is kept of one site's (batch, tokens, neurons) tensor, computed where the tensor is."""


class Recorder:
    """Records sites of a model, and stops each pass after the last of them.

    >>> with Recorder(model, [Site("resid_post", 2)]) as recorder:
    ...     arrays = recorder.run(inputs)   # {Site: (batch, tokens, neurons)}
    """

    def __init__(self, model: Model, sites: Sequence[Site]):
        self._model = model
        self._sites = sorted(set(sites), key=lambda site: site.order)
        self._attached = ExitStack()

    def __enter__(self) -> "Recorder":
        with ExitStack() as attached:  # if one cannot be attached, none is left
            for site in self._sites:
                attached.callback(self._attach(site).remove)
            self._attached = attached.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._attached.close()

    def run(self, inputs: Mapping[str, Any], keep: Keep | None = None) -> dict[Site, Any]:
        """One pass over a batch.

        Args:
            inputs: keyword arguments of the model's forward.
            keep: applied to each site's (batch, tokens, neurons) tensor as soon as it is there;
                what it returns is kept. The whole tensor if not given.

        Returns:
            Site -> what was kept, in forward order.
        """
        import torch

        kept: dict[Site, Any] = {}
        with torch.inference_mode():
            self.run_into(kept, inputs, keep)
        return kept

    def run_into(
        self, kept: dict[Site, Any], inputs: Mapping[str, Any], keep: Keep | None = None
    ) -> None:
        """As `run`, but what is kept is put into `kept` as soon as it is there.

        Several of these may be under way at once, each in a context (`contextvars`) of its own;
        the caller turns gradients off.
        """
        token = _PASS.set(_Pass(self, kept, keep or _whole))
        try:
            self._model.module(**inputs)
        except _Done:
            pass
        finally:
            _PASS.reset(token)

    def _attach(self, site: Site) -> "torch.utils.hooks.RemovableHandle":
        layer = self._model.layer(site.layer)
        rows = self._model.architecture

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._record(site, args[0] if args else kwargs["hidden_states"])

        def after(module: Any, args: tuple[Any, ...], output: Any) -> None:
            # some layers return a tensor, some a tuple; [0] of a tensor would be its first row
            self._record(site, output[0] if isinstance(output, tuple) else output)

        if site.component == "resid_pre":
            return layer.register_forward_pre_hook(before, with_kwargs=True)
        if site.component == "resid_post":
            return layer.register_forward_hook(after)
        if site.component == "attn_out":
            return layer.get_submodule(rows.attn_out).register_forward_hook(after)
        down = layer.get_submodule(rows.down)
        if site.component == "mlp_act":
            return down.register_forward_pre_hook(before, with_kwargs=True)
        return down.register_forward_hook(after)

    def _record(self, site: Site, tensor: "torch.Tensor") -> None:
        under_way = _PASS.get()
        if under_way is None or under_way.recorder is not self:
            return
        under_way.kept[site] = under_way.keep(tensor)
        if site == self._sites[-1]:
            raise _Done


@dataclass(frozen=True, eq=False)
class _Pass:
    """One pass of a batch: who records it, where to, and how its tensors are reduced."""

    recorder: Recorder
    kept: dict[Site, Any]
    keep: Keep


_PASS: ContextVar[_Pass | None] = ContextVar("the pass that the hooks record", default=None)


class _Done(Exception):
    """Everything wanted is recorded: the rest of the pass is not needed."""


def _whole(tensor: "torch.Tensor") -> "torch.Tensor":
    return tensor.clone()  # later layers may write into it
