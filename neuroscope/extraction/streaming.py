"""Models larger than memory: each layer's weights are loaded once, for all batches, and freed.

Every batch goes through the model's own forward in a greenlet of its own, which hands control back
whenever it comes to a layer. So all batches can be held before a layer until its weights are there,
whatever the layers of a family take as arguments.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from neuroscope.errors import ModelError
from neuroscope.extraction.checkpoints import READING, Checkpoint, refuse_unfit
from neuroscope.extraction.memory import free_memory
from neuroscope.extraction.weights import WeightFiles
from neuroscope.sites import Site

if TYPE_CHECKING:
    import torch

    from neuroscope.extraction.models import Model
    from neuroscope.extraction.recorder import Keep

Weights = dict[str, "torch.Tensor"]
"""Name within a layer -> weight, on the meta device where the layer is empty."""

_ALIGNMENT = 64  # bytes: a line of the processor's cache

_DRIVER: ContextVar[Any] = ContextVar("the greenlet that drives the pass under way", default=None)


def stream_sites(
    model: "Model",
    batches: Iterable[tuple[Mapping[str, Any], "Keep | None"]],
    sites: Sequence[Site],
) -> Generator[tuple[Site, list[Any]], None, None]:
    """Reads sites of a streamed model in several batches at once; every layer is loaded once.

    Between two layers each batch holds its residual stream, (batch, tokens, neurons), and its
    attention mask, so the batches given must leave memory for them.

    Args:
        model: from `load_model`, streamed.
        batches: of each batch the keyword arguments of the model's forward, and what is kept of a
            site's (batch, tokens, neurons) tensor, as for `Recorder.run`.
        sites: layers beyond the last of them are not loaded.

    Yields:
        Each site once, in forward order, with what was kept of each batch. It is not held here
        any longer, so that memory need hold one layer's values only.

    Raises:
        ModelError: the model is not streamed, or its weights cannot be read.
    """
    from neuroscope.extraction.recorder import Recorder

    if model.stream is None:
        raise ModelError(f"model '{model.name}' is in memory as a whole: read it with a Recorder")
    wanted = sorted(set(sites), key=lambda site: site.order)
    with Recorder(model, wanted) as recorder:
        passes: list[Callable[[], None]] = []
        kept: list[dict[Site, Any]] = []
        for inputs, keep in batches:
            kept.append({})
            passes.append(partial(recorder.run_into, kept[-1], inputs, keep))
        with closing(model.stream.run(passes, wanted[-1].layer + 1)) as layers:
            for layer in layers:
                for site in [site for site in wanted if site.layer == layer]:
                    yield site, [values.pop(site) for values in kept]


class LayerStream:
    """The layers of a model, empty until they are run, and the files with their weights.

    >>> module, stream = load_streamed(checkpoint, dtype="float32", attention="sdpa", device="cpu")
    >>> for layer in stream.run(passes, 6):   # passes: functions that call the module
    ...     print(f"all passes have gone through layer {layer}")

    Outside `run` the layers hold no weights, and calling the module is refused.
    """

    def __init__(
        self,
        layers: "torch.nn.ModuleList",
        path: str,
        files: WeightFiles,
        device: "torch.device",
    ):
        """
        Args:
            layers: on the meta device.
            path: of `layers` in the model, as in the names of `files`.
            device: where the layers are run.
        """
        self.device = device
        self._layers = layers
        self._path = path
        self._files = files
        self._emptied: list[Weights] = [layer.state_dict() for layer in layers]
        for layer in layers:
            # first, so that no other hook sees a layer without its weights
            layer.register_forward_pre_hook(_wait_for_weights, prepend=True)

    @property
    def bytes_read(self) -> int:
        """Bytes taken from the files of weights so far."""
        return self._files.bytes_read

    def run(self, passes: Sequence[Callable[[], None]], layers: int) -> Generator[int, None, None]:
        """Runs all passes in step through the first `layers` layers, without gradients.

        At most two layers' weights are in memory: while the passes go through one, the next is
        read. Passes that have not ended after the last of the layers are ended there, and so they
        all are where one fails or the iterator is closed.

        Args:
            passes: each calls the module once; what one raises is raised here.
            layers: 1 or more.

        Yields:
            Each layer's index, when all passes have gone through it and its weights are freed.

        Raises:
            ModelError: the weights cannot be read.
        """
        running = [_paused(one) for one in passes]
        with ExitStack() as ends:  # each of them takes place, also where another fails
            ends.callback(self._empty, range(layers))
            ends.callback(_end, running)
            ahead = ends.enter_context(closing(self._read_ahead(layers)))
            _advance(running)
            for index, weights in enumerate(ahead):
                self._layers[index].load_state_dict(self._placed(weights), assign=True)
                weights.clear()  # now only the layer holds them, whatever holds the dictionary
                _advance(running)
                self._empty([index])
                yield index

    def _read_ahead(self, layers: int) -> "Generator[Weights, None, None]":
        """Each layer's weights; the next are read in a thread while the last are in use."""
        spaces = self._spaces()
        with ThreadPoolExecutor(1, "weights") as thread:
            coming = thread.submit(self._read, 0, spaces[0])
            for following in range(1, layers + 1):
                weights = coming.result()
                if following < layers:
                    coming = thread.submit(self._read, following, spaces[following % 2])
                yield weights

    def _spaces(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """Main memory for two layers: taken once, as freed memory may stay with the process."""
        import torch

        size = max(sum(map(_padded, weights.values())) for weights in self._emptied)
        # pinned, it is copied to a graphics card at full speed
        one, other = torch.empty((2, size), dtype=torch.uint8, pin_memory=self._on_card)
        return one, other

    def _placed(self, weights: "Weights") -> "Weights":
        """Weights on the device: on the CPU where they are, else copied once they are needed.

        The copy is made by the thread that computes, in turn with its work on the device, and has
        ended when this returns: the memory may be filled again.
        """
        return {name: weight.to(self.device) for name, weight in weights.items()}

    @property
    def _on_card(self) -> bool:
        return self.device.type == "cuda"

    def _read(self, index: int, space: "torch.Tensor") -> "Weights":
        """Weights of a layer, put into `space`, (bytes,)."""
        weights: Weights = {}
        start = 0
        for name, empty in self._emptied[index].items():
            place = space[start : start + empty.nbytes]
            weights[name] = place.view(empty.dtype).view(empty.shape)
            self._files.read(f"{self._path}.{index}.{name}", weights[name])
            start += _padded(empty)
        return weights

    def _empty(self, layers: Iterable[int]) -> None:
        """Takes the weights out of layers; the modules, with their hooks, stay."""
        for index in layers:
            self._layers[index].load_state_dict(self._emptied[index], assign=True)


def _padded(weight: "torch.Tensor") -> int:
    """Bytes of a weight, and up to the next place where one may begin."""
    return -(-weight.nbytes // _ALIGNMENT) * _ALIGNMENT


def _paused(one: Callable[[], None]) -> Any:
    """A greenlet that will run a pass, with the context variables of the present moment."""
    driver = getcurrent()

    def start() -> None:
        _DRIVER.set(driver)
        one()

    paused = greenlet(start)
    paused.gr_context = copy_context()
    return paused


def _wait_for_weights(module: Any, args: Any) -> None:
    """Before each layer: control goes back to the driver until the layer has its weights."""
    driver = _DRIVER.get()
    if driver is None:
        raise ModelError(
            "this model is streamed: its layers hold no weights until they are run. Read it with"
            " stream_sites, or load it with memory='resident'"
        )
    driver.switch()


def _advance(running: Sequence[Any]) -> None:
    """Each pass goes on until it comes to its next layer, or to its end."""
    import torch

    # torch knows this mode by thread, not by greenlet: passes must not enter and leave it in turn
    with torch.inference_mode():
        for one in running:
            if not one.dead:
                one.switch()


def _end(running: Sequence[Any]) -> None:
    """Unwinds the passes that wait, all of them even if one fails at that."""
    import torch

    with torch.inference_mode(), ExitStack() as ends:
        for one in running:
            ends.callback(one.throw)  # nothing happens to one that has ended


def load_streamed(
    checkpoint: Checkpoint, *, dtype: str, attention: str, device: str
) -> tuple[Any, LayerStream]:
    """A model without its head, whose layers stay in the files, and their stream.

    Everything outside the layers (embeddings, final norm, buffers) is loaded.

    Args:
        dtype: `float32`, `bfloat16` or `float16`.
        attention: `sdpa` or `eager`.

    Raises:
        ModelError: the weights are quantised, damaged, or do not fit config.json; there is not the
            memory for two layers.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    if checkpoint.quantised:
        raise ModelError(
            f"model '{checkpoint.name}' cannot be streamed: its weights are quantised"
            " (quantization_config in config.json). Load it with memory='resident'"
        )
    if device == "all":
        raise ModelError("a streamed model runs on one device: choose cuda, mps or cpu")
    files = WeightFiles(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint.folder, **READING)
    build: Any = AutoModel.from_config
    with torch.device("meta"):
        module = build(config, dtype=getattr(torch, dtype), attn_implementation=attention)
    module.eval().requires_grad_(False)
    refuse_unfit(checkpoint, _unfit(module, files))
    _refuse_too_large(checkpoint, module, device)
    _fill_buffers(module, device)
    path = checkpoint.architecture.layers
    outside = {
        name: torch.empty_like(empty, device=device)
        for name, empty in module.state_dict().items()
        if not name.startswith(f"{path}.") and name in files.stored
    }
    for name, weight in outside.items():
        files.read(name, weight)
    module.load_state_dict(outside, assign=True, strict=False)
    layers = module.get_submodule(path)
    return module, LayerStream(layers, path, files, torch.device(device))


def _unfit(module: Any, files: WeightFiles) -> list[str]:
    """Weights of a model that its files lack or have in another shape."""
    return [
        name
        for name, empty in module.state_dict().items()
        if name not in files.stored or files.stored[name].shape != tuple(empty.shape)
    ]


def _refuse_too_large(checkpoint: Checkpoint, module: Any, device: str) -> None:
    """Refuses a model of which not even what is held at a time fits into memory."""
    whole = sum(weight.nbytes for weight in module.state_dict().values())
    layers = [
        sum(weight.nbytes for weight in layer.state_dict().values())
        for layer in module.get_submodule(checkpoint.architecture.layers)
    ]
    outside = whole - sum(layers)
    held = {"cpu": 2 * max(layers) + (outside if device == "cpu" else 0)}
    if device != "cpu":
        held[device] = max(layers) + outside
    for place, needed in held.items():
        if needed > (free := free_memory(place)):
            raise ModelError(
                f"model '{checkpoint.name}' cannot be streamed: {needed / 1e9:.1f} GB must be held"
                f" at a time as {str(module.dtype).removeprefix('torch.')} and {free / 1e9:.1f} GB"
                f" are free on {place}: choose a smaller dtype (bfloat16), or free some"
            )


def _fill_buffers(module: Any, device: str) -> None:
    """Gives the buffers that are in no file (position ids, rotary frequencies) their values."""
    import torch

    for path, empty in list(module.named_non_persistent_buffers()):
        owner, _, name = path.rpartition(".")
        buffer = torch.empty_like(empty, device=device)
        module.get_submodule(owner).register_buffer(name, buffer, persistent=False)
    module.initialize_weights()  # of parameters nothing is written: they are all on meta yet
