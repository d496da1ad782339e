"""Recorder of activations, whose hooks exist only inside a `with` block."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from neuroscope.errors import ModelError, NeuroscopeError
from neuroscope.extraction.hardware import limited_threads
from neuroscope.extraction.memory import is_out_of_memory
from neuroscope.extraction.models import Model
from neuroscope.extraction.rotary import separate_prompts
from neuroscope.sites import Site

if TYPE_CHECKING:
    import torch

Keep = Callable[["torch.Tensor"], Any]
"""Function that reduces one site's (batch, tokens, neurons) tensor to what is kept of it.

It runs on the tensor's device. It must not change the tensor, and must not return a view of it,
because later layers may write into the tensor.
"""


class Recorder:
    """Recorder of sites of a model, which stops each pass after the last of them.

    A prompt's values are those of a pass over it alone, up to rounding. Other threads wait until
    the block ends.

    >>> with Recorder(model, [Site("resid_post", 2)]) as recorder:
    ...     arrays = recorder.run(inputs)   # {Site: (batch, tokens, neurons)}
    """

    def __init__(self, model: Model, sites: Sequence[Site]):
        """Prepare to record sites.

        Args:
            model: model from `load_model`.
            sites: sites to record, in any order.

        Raises:
            SiteError: the model does not have one of the sites.
        """
        model.check_sites(sites)
        self.sites = sorted(set(sites), key=lambda site: site.order)
        self._model = model
        self._attached = ExitStack()

    def __enter__(self) -> "Recorder":
        with ExitStack() as attached:  # if one hook cannot be attached, the others are removed
            attached.enter_context(self._model.lock)
            attached.enter_context(separate_prompts(self._model.body))
            for site in self.sites:
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

    def run(
        self, inputs: Mapping[str, Any], keep: Callable[[Site], Keep] | None = None
    ) -> dict[Site, Any]:
        """Run one pass over a batch.

        Args:
            inputs: keyword arguments of the model's forward pass.
            keep: function that is called per site; it returns the function that reduces the site's
                tensor as soon as that is computed. By default, complete tensors are kept.

        Returns:
            What is kept of each site, in forward order.
        """
        import torch

        kept: dict[Site, Any] = {}
        with torch.inference_mode():
            self.run_into(kept, inputs, keep)
        return kept

    def run_into(
        self,
        kept: dict[Site, Any],
        inputs: Mapping[str, Any],
        keep: Callable[[Site], Keep] | None = None,
    ) -> None:
        """Run one pass as `run` does, and add each site to `kept` as soon as it is computed.

        Several passes may be in progress at once, each in a context (`contextvars`) of its own.
        The caller must turn gradients off.

        Raises:
            ModelError: the forward pass fails for another reason than a lack of memory.
        """
        token = _PASS.set(_Pass(self, kept, keep or _keep_complete))
        try:
            with limited_threads(self._model.threads):
                self._model.module(**inputs)
        except _Done:
            pass
        except NeuroscopeError:
            raise
        except _ReductionFailed as failure:
            raise failure.error from failure.error.__cause__
        except Exception as error:  # whatever a model whose files contradict each other runs into
            if is_out_of_memory(error):
                raise
            raise ModelError(
                f"the forward pass of model '{self._model.name}' fails"
                f" ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})",
                remedy="check that its config.json fits transformers",
            ) from error
        finally:
            _PASS.reset(token)

    def _attach(self, site: Site) -> "torch.utils.hooks.RemovableHandle":
        """Attach a hook to the module whose input or output is a site."""
        import torch

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._record(site, args[0] if args else kwargs["hidden_states"])

        def after(module: Any, args: tuple[Any, ...], output: Any) -> None:
            # modules return a tensor, or a tuple or an object whose first item is the tensor
            self._record(site, output if isinstance(output, torch.Tensor) else output[0])

        module = self._module(site)
        if site.component in ("resid_pre", "mlp_act"):
            return module.register_forward_pre_hook(before, with_kwargs=True)
        return module.register_forward_hook(after)

    def _module(self, site: Site) -> "torch.nn.Module":
        """Return the module whose input (`resid_pre`, `mlp_act`) or output (others) is a site."""
        model, architecture = self._model, self._model.architecture
        module: torch.nn.Module = model.module
        if site.component == "logits":
            return module
        if site.component == "final" and architecture.final_norm:
            module = model.body.get_submodule(architecture.final_norm)
            return module
        paths = {
            "attn_out": architecture.attn_out,
            "mlp_act": architecture.down,
            "mlp_out": architecture.down,
        }
        return model.layer(site.layer).get_submodule(paths.get(site.component, ""))

    def _record(self, site: Site, tensor: "torch.Tensor") -> None:
        """Add a site to the current pass, and end the pass after the last site."""
        current = _PASS.get()
        if current is None or current.recorder is not self:
            return
        try:
            current.kept[site] = current.keep(site)(tensor)
        except Exception as error:
            raise _ReductionFailed(error) from error
        if site == self.sites[-1]:
            raise _Done


@dataclass(frozen=True, eq=False)
class _Pass:
    """Pass of one batch, with its recorder, what is kept so far, and how tensors are reduced."""

    recorder: Recorder
    kept: dict[Site, Any]
    keep: Callable[[Site], Keep]


_PASS: ContextVar[_Pass | None] = ContextVar("the pass that the hooks record", default=None)


class _Done(Exception):
    """Exception that ends a pass after the last site, as the rest of it is not needed."""


class _ReductionFailed(Exception):
    """Exception that carries the error of a reduction out of the forward pass."""

    def __init__(self, error: Exception):
        self.error = error


def _keep_complete(site: Site) -> Keep:
    """Return the function that keeps a copy of a site's tensor."""
    return _clone


def _clone(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return a copy of a tensor, as later layers may write into the tensor itself."""
    return tensor.clone()
