"""Models larger than memory, whose layers are loaded and freed one after another.

The weights of a layer are loaded once for all batches. Each batch runs the model's own forward pass
in a greenlet, which returns control whenever it reaches a layer. All batches can therefore wait at
a layer until its weights are loaded, whatever arguments the layers of the family take.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from neuroscope.errors import ModelError, Option, ResourceError
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.memory import free_memory
from neuroscope.extraction.weights import WeightFiles

if TYPE_CHECKING:
    import torch

Weights = dict[str, "torch.Tensor"]
"""Weights of one layer by name, on the meta device while the layer is empty."""

_ALIGNMENT = 64  # bytes, the size of a cache line of the processor
_RESIDENT = Option("memory", "resident", "keep all weights in memory")

_DRIVER: ContextVar[Any] = ContextVar("the greenlet that drives the current pass", default=None)


class LayerStream:
    """Layers of a model, which are empty until they run, and the files with their weights.

    >>> stream = load_streamed(checkpoint, WeightFiles(checkpoint), module, "cpu")
    >>> for layer in stream.run(passes, 6):   # passes: functions that call the module
    ...     print(f"all passes have gone through layer {layer}")

    Outside `run` the layers hold no weights, and calling the module raises an error.
    """

    def __init__(
        self,
        layers: "torch.nn.ModuleList",
        path: str,
        files: WeightFiles,
        device: "torch.device",
    ):
        """Prepare the layers of a model for streaming.

        Args:
            layers: layers of the model, on the meta device.
            path: path of `layers` in the model, as in the names of `files`.
            files: files with the weights.
            device: device on which the layers run.
        """
        self.device = device
        self._layers = layers
        self._path = path
        self._files = files
        self._emptied: list[Weights] = [layer.state_dict() for layer in layers]
        for layer in layers:
            # before all other hooks, so that none sees a layer without its weights
            layer.register_forward_pre_hook(_wait_for_weights, prepend=True)

    @property
    def bytes_read(self) -> int:
        """Number of bytes read from the files so far."""
        return self._files.bytes_read

    def run(self, passes: Sequence[Callable[[], None]], layers: int) -> Generator[int, None, None]:
        """Run all passes in step through the first `layers` layers, without gradients.

        The weights of at most two layers are in memory: while the passes go through one layer, the
        next is read. Passes that have not ended after the last layer are stopped there. All passes
        are stopped if one fails or the iterator is closed.

        Args:
            passes: functions that each call the module once; their exceptions are raised here.
            layers: number of layers, 1 or more.

        Yields:
            Index of each layer, when all passes have gone through it and it is empty again.

        Raises:
            ModelError: the weights cannot be read.
        """
        running = [_paused(run_pass) for run_pass in passes]
        with ExitStack() as cleanup:  # each callback runs even if another one fails
            cleanup.callback(self._empty, range(layers))
            cleanup.callback(_stop, running)
            loaded = cleanup.enter_context(closing(self._read_ahead(layers)))
            _advance(running)
            for index, weights in enumerate(loaded):
                self._layers[index].load_state_dict(self._on_device(weights), assign=True)
                weights.clear()  # from now on, only the layer refers to them
                _advance(running)
                self._empty([index])
                yield index

    def _read_ahead(self, layers: int) -> Generator[Weights, None, None]:
        """Yield each layer's weights, while a thread reads those of the next layer."""
        buffers = self._buffers()
        with ThreadPoolExecutor(1, "weights") as thread:
            pending = thread.submit(self._read, 0, buffers[0])
            for next_layer in range(1, layers + 1):
                weights = pending.result()
                if next_layer < layers:
                    pending = thread.submit(self._read, next_layer, buffers[next_layer % 2])
                yield weights

    def _buffers(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """Allocate memory for two layers, once, as freed memory may stay with the process."""
        import torch

        size = max(sum(map(_padded, weights.values())) for weights in self._emptied)
        # pinned memory is copied to a GPU at full speed
        pinned = self.device.type == "cuda"
        first, second = torch.empty((2, size), dtype=torch.uint8, pin_memory=pinned)
        return first, second

    def _on_device(self, weights: Weights) -> Weights:
        """Return the weights on the device: the same tensors on the CPU, otherwise copies.

        The copies are made in the thread that runs the layers, and are complete on return: the
        buffer may then be filled again.
        """
        return {name: weight.to(self.device) for name, weight in weights.items()}

    def _read(self, index: int, buffer: "torch.Tensor") -> Weights:
        """Read the weights of a layer into `buffer`, (bytes,), and return them as views of it."""
        weights: Weights = {}
        start = 0
        for name, empty in self._emptied[index].items():
            span = buffer[start : start + empty.nbytes]
            weights[name] = span.view(empty.dtype).view(empty.shape)
            self._files.read(f"{self._path}.{index}.{name}", weights[name])
            start += _padded(empty)
        return weights

    def _empty(self, layers: Iterable[int]) -> None:
        """Remove the weights of layers, but keep their modules and hooks."""
        for index in layers:
            self._layers[index].load_state_dict(self._emptied[index], assign=True)


def _padded(weight: "torch.Tensor") -> int:
    """Return the size of a weight in bytes, rounded up to a multiple of the alignment."""
    return -(-weight.nbytes // _ALIGNMENT) * _ALIGNMENT


def _paused(run_pass: Callable[[], None]) -> Any:
    """Return a greenlet that will run a pass with a copy of the current context variables."""
    driver = getcurrent()

    def start() -> None:
        _DRIVER.set(driver)
        run_pass()

    paused = greenlet(start)
    paused.gr_context = copy_context()
    return paused


def _wait_for_weights(module: Any, args: Any) -> None:
    """Return control to the driver until the layer has its weights (forward pre-hook)."""
    driver = _DRIVER.get()
    if driver is None:
        raise ModelError(
            "a streamed model cannot be called: its layers hold no weights", options=[_RESIDENT]
        )
    driver.switch()


def _advance(running: Sequence[Any]) -> None:
    """Resume each pass until it reaches its next layer or finishes."""
    import torch

    # torch keeps this mode per thread, not per greenlet, so passes must not switch it themselves
    with torch.inference_mode():
        for paused in running:
            if not paused.dead:
                paused.switch()


def _stop(running: Sequence[Any]) -> None:
    """Unwind all waiting passes, even if one of them fails while it unwinds."""
    import torch

    with torch.inference_mode(), ExitStack() as cleanup:
        for paused in running:
            cleanup.callback(paused.throw)  # has no effect on a pass that has ended


def load_streamed(
    checkpoint: Checkpoint, files: WeightFiles, module: Any, device: str
) -> LayerStream:
    """Load the weights of a model, except those of its layers, which are streamed.

    Everything outside the layers (embeddings, final norm, buffers) is loaded.

    Args:
        checkpoint: files of the model.
        files: weights of the model, which have passed `check_fit`.
        module: model without its head, from `build_empty`.
        device: device on which the model runs, from `resolve_device`.

    Raises:
        ModelError: the weights are quantised or damaged, or `device` is `all`.
        ResourceError: there is not enough memory for two layers.
    """
    import torch

    _refuse_unstreamable(checkpoint, device)
    _check_memory(checkpoint, module, device)
    _fill_buffers(module, device)
    path = checkpoint.architecture.layers
    outside_layers = {
        name: torch.empty_like(empty, device=device)
        for name, empty in module.state_dict().items()
        if not name.startswith(f"{path}.") and name in files.stored
    }
    for name, weight in outside_layers.items():
        files.read(name, weight)
    module.load_state_dict(outside_layers, assign=True, strict=False)
    layers = module.get_submodule(path)
    return LayerStream(layers, path, files, torch.device(device))


def _refuse_unstreamable(checkpoint: Checkpoint, device: str) -> None:
    """Raise ModelError if the weights are quantised, or are to be spread over all GPUs."""
    if checkpoint.quantised:
        raise ModelError(
            f"model '{checkpoint.name}' cannot be streamed: its weights are quantised"
            " (quantization_config in config.json)",
            options=[_RESIDENT],
        )
    if device == "all":
        raise ModelError(
            f"model '{checkpoint.name}' cannot be streamed over all GPUs",
            options=[Option("device", "cuda", "stream it on one GPU"), _RESIDENT],
        )


def _check_memory(checkpoint: Checkpoint, module: Any, device: str) -> None:
    """Raise ResourceError unless all weights that are loaded at the same time fit into memory."""
    total = sum(weight.nbytes for weight in module.state_dict().values())
    layer_sizes = [
        sum(weight.nbytes for weight in layer.state_dict().values())
        for layer in module.get_submodule(checkpoint.architecture.layers)
    ]
    outside = total - sum(layer_sizes)
    needed_on = {"cpu": 2 * max(layer_sizes) + (outside if device == "cpu" else 0)}
    if device != "cpu":
        needed_on[device] = max(layer_sizes) + outside
    half_precision = Option("dtype", "bfloat16", "load it in half precision")
    for device_name, needed in needed_on.items():
        if needed > (free := free_memory(device_name)):
            raise ResourceError(
                f"not enough memory on {device_name} to stream model '{checkpoint.name}': it needs"
                f" {needed / 1e9:.1f} GB at a time as {str(module.dtype).removeprefix('torch.')},"
                f" but only {free / 1e9:.1f} GB are free",
                options=[half_precision] if module.dtype.itemsize > 2 else [],
                remedy="free some memory",
            )


def _fill_buffers(module: Any, device: str) -> None:
    """Compute the buffers that no file contains, such as position ids and rotary frequencies."""
    import torch

    for path, empty in list(module.named_non_persistent_buffers()):
        owner, _, name = path.rpartition(".")
        buffer = torch.empty_like(empty, device=device)
        module.get_submodule(owner).register_buffer(name, buffer, persistent=False)
    module.initialize_weights()  # leaves parameters unchanged: they are still on the meta device
