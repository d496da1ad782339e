"""Two ways to run a model of Mistral 7B's shape that do not hold it in memory.

    python -m benchmarks.larger_than_memory folder
    python -m benchmarks.larger_than_memory small --layers 6 --hidden 1024 --mlp 3584 \\
        --heads 8 --kv-heads 2 --vocabulary 2000

`streamed` is `load_model(..., memory="stream")`; `offloaded` is accelerate's disk offload. Both
record the mean over tokens of resid_post at every layer, in the same batches, each in a separate
process that starts with the files evicted from the page cache. With --cold, they are evicted again
before every batch of the offloaded model, as if they were larger than the memory: the cache would
then lose each file before its next use. A control group whose memory is smaller than the files has
the same effect without --cold.

The weights are random and are created in the folder unless they exist. The full shape takes
14.5 GB of disk and about 60 TFLOP per way: about ten minutes on two cores with bfloat16 (AVX-512),
several times as long on cores without it.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.random_checkpoint import Shape, ensure_checkpoint
from benchmarks.resources import evict, io_counts, major_faults, resident
from benchmarks.tables import machine, publish, table
from neuroscope.extraction.batching import Batch, tokenise
from neuroscope.extraction.batching import batches as make_batches
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.checkpoints import Checkpoint, find_checkpoint
from neuroscope.extraction.memory import free_memory
from neuroscope.extraction.models import Model, load_model
from neuroscope.extraction.pooling import pooling
from neuroscope.extraction.reading import read_sites
from neuroscope.extraction.recorder import Keep, Recorder
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site

Outcome = tuple[dict[Site, list[torch.Tensor]], int]
"""Site -> (prompts, neurons) of each batch, and the bytes of weights fetched from the files."""

COLUMNS = {
    "seconds": "loading and all batches, without imports",
    "processor seconds": "the same, as processor time of all threads",
    "peak resident": "GB, VmHWM: all pages mapped by the process at once, those of files included",
    "peak anonymous": "GB, RssAnon, sampled: without the pages of files, which can be dropped",
    "weights fetched": "GB of tensors taken from the files, wherever the bytes came from",
    "read calls": "GB, rchar: bytes read through read(); reading a mapped file does not count",
    "from disk": "GB, read_bytes: bytes that the storage delivered, also to mapped files; cached"
    " bytes do not count",
    "major faults": "number of times the process waited for the storage to fill a page",
}


def main() -> None:
    """Measure both ways and print the table, or run one way in a child process."""
    arguments = parse()
    if arguments.way:
        return run_way(arguments)
    try:
        ensure_checkpoint(arguments.folder, shape(arguments))
    except ValueError as error:
        sys.exit(str(error))
    rows = {way: measured(arguments, way) for way in WAYS}
    deviation = difference(arguments.folder)
    if not deviation <= 1e-5:
        sys.exit(f"the two ways differ by {deviation:.1e} of the largest value of a layer")
    conditions = (
        f"{arguments.prompts} prompts in batches of {arguments.batch}, {arguments.dtype}, weights"
        f" of {weights(arguments.folder) / 1e9:.1f} GB{cache_state(arguments)}. Largest difference"
        f" between the ways, over the largest value of the layer: {deviation:.1e}."
    )
    parts = [result_table(rows), conditions, machine("accelerate", "safetensors")]
    publish("memory", "\n\n".join(parts), write=arguments.write)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the checkpoint, created if it is missing")
    sizes = {field.name.replace("_", "-"): field.default for field in fields(Shape)}
    for name, default in {**sizes, "prompts": 200, "batch": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--dtype", default="bfloat16", help="of the computation")
    parser.add_argument("--write", action="store_true", help="write into docs/performance.md")
    parser.add_argument("--cold", action="store_true", help="evict the files before every batch")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    return parser.parse_args()


def shape(arguments: argparse.Namespace) -> Shape:
    """Return the shape of the model, from the command line."""
    return Shape(**{field.name: getattr(arguments, field.name) for field in fields(Shape)})


def measured(arguments: argparse.Namespace, way: str) -> dict[str, float]:
    """Run one way in a separate process and return its column of the table."""
    evict(arguments.folder)
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.larger_than_memory", *sys.argv[1:], "--way", way],
        stdout=subprocess.PIPE,
        text=True,
    )
    anonymous = 0.0
    while child.poll() is None:
        anonymous = max(anonymous, resident(child.pid, "RssAnon"))
        time.sleep(0.02)
    output, _ = child.communicate()
    if child.returncode:
        sys.exit(f"{way} failed")
    row: dict[str, float] = json.loads(output.splitlines()[-1])
    return row | {"peak anonymous": anonymous}


def run_way(arguments: argparse.Namespace) -> None:
    """Run the prompts in one way, save the activations and print the measurements."""
    checkpoint = find_checkpoint(str(arguments.folder))
    import transformers  # noqa: F401  (its import is not part of the measurement)

    before, faults = io_counts(), major_faults()
    start, processor_start = time.perf_counter(), time.process_time()
    activations, fetched = WAYS[arguments.way](checkpoint, arguments)
    seconds = time.perf_counter() - start
    processor_seconds = time.process_time() - processor_start
    after = io_counts()
    row = {
        "seconds": seconds,
        "processor seconds": processor_seconds,
        "peak resident": resident("self", "VmHWM"),
        "weights fetched": fetched / 1e9,
        "read calls": (after["rchar"] - before["rchar"]) / 1e9,
        "from disk": (after["read_bytes"] - before["read_bytes"]) / 1e9,
        "major faults": major_faults() - faults,
    }
    values = {str(site): torch.cat(batches) for site, batches in activations.items()}
    save_file(values, outcome_path(arguments.folder, arguments.way))
    print(json.dumps(row))


def streamed(checkpoint: Checkpoint, arguments: argparse.Namespace) -> Outcome:
    """Stream the weights, layer by layer."""
    model = load_model(checkpoint, dtype=arguments.dtype, memory="stream")
    prepared, sites = batches(model, arguments), every_layer(model)
    activations: dict[Site, list[torch.Tensor]] = {site: [] for site in sites}
    for _, site, values in read_sites(model, prepared, sites, mean_over_tokens, no_limit()):
        activations[site].append(values)
    assert model.stream is not None
    return activations, model.stream.bytes_read


def offloaded(checkpoint: Checkpoint, arguments: argparse.Namespace) -> Outcome:
    """Use accelerate's disk offload."""
    from accelerate.utils.offload import OffloadedWeightsLoader
    from transformers import AutoModel, AutoTokenizer

    fetched = 0
    fetch = OffloadedWeightsLoader.__getitem__

    def counted(self: Any, key: str) -> torch.Tensor:
        nonlocal fetched
        weight: torch.Tensor = fetch(self, key)
        fetched += weight.nbytes
        return weight

    OffloadedWeightsLoader.__getitem__ = counted
    layers = {f"layers.{index}": "disk" for index in range(checkpoint.layer_count)}
    module = AutoModel.from_pretrained(
        checkpoint.folder,
        dtype=getattr(torch, arguments.dtype),
        device_map={"embed_tokens": "cpu", "norm": "cpu", "rotary_emb": "cpu", **layers},
        offload_folder=str(arguments.folder / "offload"),
    )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    model = Model(checkpoint, module, tokenizer, "right")
    activations: dict[Site, list[torch.Tensor]] = {site: [] for site in every_layer(model)}
    with Recorder(model, list(activations)) as recorder:
        for batch in batches(model, arguments):
            if arguments.cold:
                evict(arguments.folder)
            keep = partial(mean_over_tokens, batch=batch)
            for site, values in recorder.run(batch.inputs(model), keep).items():
                activations[site].append(values)
    return activations, fetched


WAYS: dict[str, Callable[[Checkpoint, argparse.Namespace], Outcome]] = {
    "streamed": streamed,
    "offloaded": offloaded,
}


def every_layer(model: Model) -> list[Site]:
    """Return the sites that are recorded."""
    return [Site("resid_post", layer) for layer in range(model.layer_count)]


def batches(model: Model, arguments: argparse.Namespace) -> list[Batch]:
    """Return batches of prompts of 15 to 20 random words."""
    rng, vocabulary = random.Random(0), model.checkpoint.config["vocab_size"]
    prompts = [
        " ".join(f"w{rng.randrange(3, vocabulary)}" for _ in range(rng.randint(15, 20)))
        for _ in range(arguments.prompts)
    ]
    block = tokenise(model, PromptSet.of(prompts).prompts)
    spans = (
        slice(start, start + arguments.batch) for start in range(0, len(block), arguments.batch)
    )
    return [
        batch
        for span in spans
        for batch in make_batches(model, block.slice(span), token_rule="all", budget=no_limit())
    ]


def no_limit() -> TokenBudget:
    """Return a budget that leaves the prompts of a batch together."""
    return TokenBudget(sys.maxsize)


def mean_over_tokens(site: Site, batch: Batch) -> Keep:
    """Return a function that averages (batch, tokens, neurons) over each prompt's tokens."""
    return pooling("mean", batch.kept)


def outcome_path(folder: Path, way: str) -> Path:
    """Return the file for the activations of one way, apart from the weights."""
    (folder / "outcome").mkdir(exist_ok=True)
    return folder / "outcome" / f"{way}.safetensors"


def difference(folder: Path) -> float:
    """Return the largest difference between the ways, over the largest value of its layer."""
    a, b = (load_file(outcome_path(folder, way)) for way in WAYS)
    return max(float((a[site] - b[site]).abs().max() / a[site].abs().max()) for site in a)


def weights(folder: Path) -> int:
    """Return the size of the weights in bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def cache_state(arguments: argparse.Namespace) -> str:
    """Return the state of the page cache or the free memory, for the line below the table."""
    if arguments.cold:
        return ", evicted from the page cache before every batch"
    return f", {free_memory() / 1e9:.1f} GB of memory free"


def result_table(rows: dict[str, dict[str, float]]) -> str:
    """Return the table: a row per quantity, a column per way."""
    lines = []
    for name, meaning in COLUMNS.items():
        is_count = name == "major faults"
        values = (row[name] for row in rows.values())
        cells = (f"{v:,.0f}" if is_count or v > 100 else f"{v:.2f}" for v in values)
        lines.append([name, *cells, meaning])
    return table(["", *rows, "meaning"], lines)


if __name__ == "__main__":
    main()
