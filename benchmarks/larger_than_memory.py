"""Reads a model of Mistral 7B's shape in two ways that need not hold it in memory.

    python -m benchmarks.larger_than_memory folder
    python -m benchmarks.larger_than_memory small --layers 6 --hidden 1024 --mlp 3584 \\
        --heads 8 --kv-heads 2 --vocabulary 2000

`streamed` is `load_model(..., memory="stream")`; `offloaded` is accelerate's disk offload, with
ordinary batches. Both record the mean over tokens of resid_post at every layer, in the same
batches, each in a process of its own that begins with the files evicted from the page cache. With
--cold they are evicted again before every batch, as if they were larger than the memory: read in
turn, none of them would still be in the cache when its turn comes again. Where a control group
limits the memory below the size of the files, that is so without --cold.

The weights are random; they are made, a layer at a time, where the folder does not hold them yet.
The full shape takes 14.5 GB of disk and about 60 TFLOP each way: some ten minutes on two cores that
know bfloat16 (AVX-512), several times that on cores that do not.
"""

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

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

Found = tuple[dict[Site, list[torch.Tensor]], int]
"""Site -> (prompts, neurons) of each batch; bytes of weights that were fetched from the files."""

SPREAD = 0.02  # standard deviation of the random weights

COLUMNS = {
    "seconds": "loading and all batches, without imports",
    "processor seconds": "the same in the time of all its threads, whatever else the machine did",
    "peak resident": "GB, VmHWM: all pages the process had mapped at once, those of files included",
    "peak anonymous": "GB, RssAnon, sampled: without the pages of files, which can be dropped",
    "weights fetched": "GB of tensors taken from the files, wherever the bytes came from",
    "read calls": "GB, rchar: what went through read(); reading a mapped file does not count here",
    "from disk": "GB, read_bytes: what the storage gave, also to mapped files; cached bytes do not"
    " count",
    "major faults": "times the process waited for the storage to fill a page of a mapped file",
}


def main() -> None:
    arguments = parse()
    if arguments.way:
        return read(arguments)
    if not (arguments.folder / "config.json").is_file():
        make_checkpoint(arguments)
    refuse_another_shape(arguments)
    rows = {way: measured(arguments, way) for way in WAYS}
    found = difference(arguments.folder)
    if not found <= 1e-5:
        sys.exit(f"the two ways differ: by {found:.1e} of the largest value of a layer")
    about = (
        f"{arguments.prompts} prompts in batches of {arguments.batch}, {arguments.dtype}, weights"
        f" of {weights(arguments.folder) / 1e9:.1f} GB{limit(arguments)}. Largest difference"
        f" between the ways, over the largest value of the layer: {found:.1e}."
    )
    text = f"{shown(rows)}\n\n{about}\n\n{machine('accelerate', 'safetensors')}"
    publish("memory", text, write=arguments.write)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the checkpoint, made if it is not there")
    for name, default in (
        ("layers", 32),
        ("hidden", 4096),
        ("mlp", 14336),
        ("heads", 32),
        ("kv-heads", 8),
        ("vocabulary", 32000),
        ("prompts", 200),
        ("batch", 32),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{default} if not given")
    parser.add_argument("--dtype", default="bfloat16", help="of the computation")
    parser.add_argument("--write", action="store_true", help="put it into docs/performance.md")
    parser.add_argument("--cold", action="store_true", help="evict the files before every batch")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    return parser.parse_args()


def make_checkpoint(arguments: argparse.Namespace) -> None:
    """Writes random weights, one file for each layer and one for the rest, and a tokenizer."""
    from transformers import AutoModelForCausalLM, MistralConfig

    config = MistralConfig(
        **shape(arguments),
        max_position_embeddings=4096,
        dtype="bfloat16",
        pad_token_id=2,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(arguments.folder, arguments.vocabulary)
    weight_map: dict[str, str] = {}
    torch.manual_seed(0)
    for name, empty in parts(model.state_dict()):
        file = f"model-{name}.safetensors"
        weights = {key: random_weight(key, one.shape) for key, one in empty.items()}
        save_file(weights, arguments.folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(weights, file)
        print(f"wrote {file}", file=sys.stderr)
    index = {"metadata": {}, "weight_map": weight_map}
    (arguments.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.architectures = ["MistralForCausalLM"]
    config.save_pretrained(arguments.folder)  # last: says that the checkpoint is complete


def shape(arguments: argparse.Namespace) -> dict[str, int]:
    """What is asked for, in the words of config.json."""
    return {
        "vocab_size": arguments.vocabulary,
        "hidden_size": arguments.hidden,
        "intermediate_size": arguments.mlp,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.heads,
        "num_key_value_heads": arguments.kv_heads,
    }


def refuse_another_shape(arguments: argparse.Namespace) -> None:
    """Ends the program if the folder's checkpoint is not of the shape that is asked for."""
    config = json.loads((arguments.folder / "config.json").read_text())
    for key, wanted in shape(arguments).items():
        if config[key] != wanted:
            sys.exit(
                f"{arguments.folder} holds a checkpoint with {key} {config[key]}, {wanted} is asked"
                " for: name another folder, or delete it"
            )


def parts(empty: dict[str, torch.Tensor]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The weights of each layer, and those outside the layers."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, one in empty.items():
        layer = re.search(r"layers\.(\d+)\.", key)
        found.setdefault(f"layer-{layer[1]}" if layer else "outside", {})[key] = one
    yield from found.items()


def random_weight(name: str, shape: torch.Size) -> torch.Tensor:
    weight = torch.empty(shape, dtype=torch.bfloat16)
    return weight.fill_(1) if name.endswith("norm.weight") else weight.normal_(0, SPREAD)


def save_tokenizer(folder: Path, vocabulary: int) -> None:
    """A tokenizer of whole words: w3, w4 and so on."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    words = [*special, *(f"w{index}" for index in range(len(special), vocabulary))]
    fast = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, "<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", special.index("<s>"))]
    )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=fast, **names).save_pretrained(folder)


def measured(arguments: argparse.Namespace, way: str) -> dict[str, float]:
    """Runs one way in a process of its own and gives its row of the table."""
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


def evict(folder: Path) -> None:
    """Asks the system to forget the weights that it has in its page cache."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(process: int | str, line: str) -> float:
    """GB that a line of a process's status names; nothing once the process has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    match = re.search(rf"^{line}:\s+(\d+) kB", status, re.M)
    return int(match[1]) * 1024 / 1e9 if match else 0.0


def read(arguments: argparse.Namespace) -> None:
    """Reads the prompts in one way, writes what was found and prints what it cost."""
    checkpoint = find_checkpoint(str(arguments.folder))
    import transformers  # noqa: F401  (its import is not part of the measurement)

    before, faults = io_counts(), major_faults()
    start, worked = time.perf_counter(), time.process_time()
    found, fetched = WAYS[arguments.way](checkpoint, arguments)
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    after = io_counts()
    row = {
        "seconds": seconds,
        "processor seconds": worked,
        "peak resident": resident("self", "VmHWM"),
        "weights fetched": fetched / 1e9,
        "read calls": (after["rchar"] - before["rchar"]) / 1e9,
        "from disk": (after["read_bytes"] - before["read_bytes"]) / 1e9,
        "major faults": major_faults() - faults,
    }
    values = {str(site): torch.cat(batches) for site, batches in found.items()}
    save_file(values, outcome(arguments.folder, arguments.way))
    print(json.dumps(row))


def io_counts() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(count) for name, count in (line.split(": ") for line in lines)}


def major_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def streamed(checkpoint: Checkpoint, arguments: argparse.Namespace) -> Found:
    model = load_model(checkpoint, dtype=arguments.dtype, memory="stream")
    prepared, sites = batches(model, arguments), every_layer(model)
    found: dict[Site, list[torch.Tensor]] = {site: [] for site in sites}
    for _, site, values in read_sites(model, prepared, sites, mean_over_tokens, no_limit()):
        found[site].append(values)
    assert model.stream is not None
    return found, model.stream.bytes_read


def offloaded(checkpoint: Checkpoint, arguments: argparse.Namespace) -> Found:
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
    found: dict[Site, list[torch.Tensor]] = {site: [] for site in every_layer(model)}
    with Recorder(model, list(found)) as recorder:
        for batch in batches(model, arguments):
            if arguments.cold:
                evict(arguments.folder)
            keep = partial(mean_over_tokens, batch=batch)
            for site, values in recorder.run(batch.inputs(model), keep).items():
                found[site].append(values)
    return found, fetched


WAYS: dict[str, Callable[[Checkpoint, argparse.Namespace], Found]] = {
    "streamed": streamed,
    "offloaded": offloaded,
}


def every_layer(model: Model) -> list[Site]:
    return [Site("resid_post", layer) for layer in range(model.layer_count)]


def batches(model: Model, arguments: argparse.Namespace) -> list[Batch]:
    """Return batches of prompts of 15 to 20 random words."""
    draw, vocabulary = random.Random(0), model.checkpoint.config["vocab_size"]
    prompts = [
        " ".join(f"w{draw.randrange(3, vocabulary)}" for _ in range(draw.randint(15, 20)))
        for _ in range(arguments.prompts)
    ]
    block = tokenise(model, PromptSet.of(prompts).prompts)
    spans = (slice(at, at + arguments.batch) for at in range(0, len(block), arguments.batch))
    return [
        batch
        for span in spans
        for batch in make_batches(model, block.slice(span), token_rule="all", budget=no_limit())
    ]


def no_limit() -> TokenBudget:
    """Return a budget that leaves the prompts of a batch together."""
    return TokenBudget(sys.maxsize)


def mean_over_tokens(site: Site, batch: Batch) -> Keep:
    """Return what reduces (batch, tokens, neurons) to the mean over each prompt's tokens."""
    return pooling("mean", batch.kept)


def outcome(folder: Path, way: str) -> Path:
    """Where the values that one way found are put, away from the weights."""
    (folder / "outcome").mkdir(exist_ok=True)
    return folder / "outcome" / f"{way}.safetensors"


def difference(folder: Path) -> float:
    """The largest difference between the ways, over the largest value of its layer."""
    one, other = (load_file(outcome(folder, way)) for way in WAYS)
    return max(float((one[site] - other[site]).abs().max() / one[site].abs().max()) for site in one)


def weights(folder: Path) -> int:
    """Bytes of the files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def limit(arguments: argparse.Namespace) -> str:
    """What keeps the files out of the page cache, if anything does."""
    if arguments.cold:
        return ", evicted from the page cache before every batch"
    return f", {free_memory() / 1e9:.1f} GB of memory free"


def shown(rows: dict[str, dict[str, float]]) -> str:
    lines = []
    for name, meaning in COLUMNS.items():
        counted = name == "major faults"
        values = (row[name] for row in rows.values())
        cells = (f"{v:,.0f}" if counted or v > 100 else f"{v:.2f}" for v in values)
        lines.append([name, *cells, meaning])
    return table(["", *rows, "what it counts"], lines)


if __name__ == "__main__":
    main()
