"""Small activations to store: three prompts at two sites, in two parts, without a model."""

import os
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from neuroscope.activations import Activations, Provenance
from neuroscope.errors import PromptError
from neuroscope.prompts import Prompt, PromptSet
from neuroscope.sites import Site
from neuroscope.storage.activation_store import store_folder
from neuroscope.storage.inputs import read_inputs
from neuroscope.storage.keys import ActivationKey
from neuroscope.storage.manifest import Manifest
from neuroscope.storage.writing import open_folder
from neuroscope.studies.store.sinks import StatisticsSink, ValueSink
from neuroscope.tokens import TokenBlock, Vocabulary

PROMPTS = PromptSet(
    (
        Prompt("z", "the cat", {"topic": "animals", "language": "en"}),
        Prompt("10", "Ünïcödé 猫\nof two lines"),
        Prompt("9", "x"),
    )
)
RESID, MLP = Site("resid_post", 0), Site("mlp_act", 11)
NEURONS = {RESID: 8, MLP: 5}
WORDS = ("[CLS]", "[SEP]", "[UNK]", "the", "cat", "Ün", "##ï", "猫", "x")
VOCABULARY = Vocabulary(WORDS, frozenset({0, 1}), 2)
IDS = {"z": (0, 3, 4, 1), "10": (0, 5, 6, 7, 2, 1), "9": (0, 8, 1)}
PARTS = ["resid_post.0/part-00000.parquet", "mlp_act.11/part-00001.parquet"]


def tokenise(prompts):
    ids = [IDS[prompt.id] for prompt in prompts]
    ends = np.cumsum([len(row) for row in ids])
    return TokenBlock(np.concatenate(ids).astype(np.int32), ends, VOCABULARY)


def refuse(prompts):
    """Refuse every prompt, in place of `tokenise`."""
    raise PromptError("prompt '9' is too long")


def key(pool="mean", rule="content", **others):
    values = {"fingerprint": "f" * 64, "prompts_digest": PROMPTS.digest, "sites": (RESID, MLP)}
    values |= {"pool": pool, "token_rule": rule, "truncated": False}
    return ActivationKey(**values | {"dtype": "float32", "attention": "sdpa"} | others)


def manifest(pool="mean", rule="content", per_part=2, tokens_per_part=1000):
    """Return a plan: a manifest without parts."""
    provenance = Provenance(
        model="tiny",
        architecture="bert",
        fingerprint="f" * 64,
        revision=None,
        attention="sdpa",
        dtype="float32",
        device="cpu",
        padding_side="right",
        token_rule=rule,
        pool=pool,
        truncated=False,
        batch_tokens=2048,
        prompts_digest=PROMPTS.digest,
        versions={"python": "3.11"},
    )
    return Manifest(key(pool, rule), len(PROMPTS), per_part, tokens_per_part, provenance)


def manifest_with_values(pool="mean", **options):
    """Return the manifest of a folder that holds all values."""
    return replace(manifest(pool, **options), parts=(2, 1), values=True)


def make_activations(pool="mean", rule="content", seed=0):
    """Return activations of the prompts at two sites of different width."""
    random = np.random.default_rng(seed)
    kept = tokenise(PROMPTS).kept_counts(rule)

    def array(neurons):
        if pool != "none":
            return random.normal(size=(len(PROMPTS), neurons)).astype(np.float32)
        return [random.normal(size=(count, neurons)).astype(np.float32) for count in kept]

    arrays = {site: array(neurons) for site, neurons in NEURONS.items()}
    return Activations(PROMPTS, tokenise(PROMPTS), arrays, manifest(pool, rule).provenance)


class Lengths:
    """Statistics: the number of tokens of each prompt; they need no forward pass."""

    name = "lengths-1"

    def rider(self, ids, block, first):
        return LengthsOfPart(ids, block, first)


class LengthsOfPart:
    def __init__(self, ids, block, first):
        self.ids, self.lengths, self.first = ids, block.lengths, first

    def reduce(self, site, batch):
        raise NotImplementedError

    def add(self, site, batch, reduced):
        raise NotImplementedError

    def arrays(self):
        return {"ids": np.array(self.ids), "lengths": self.lengths, "first": np.array(self.first)}


class Writing:
    """Folder that is open for writing, with its sinks."""

    def __init__(self, writer, plan, prompts, tokenise, *, values=True, statistics=()):
        self.folder, self.writer = writer.folder, writer
        self.manifest = writer.begin(plan, prompts, tokenise, values=values)
        self.values = ValueSink(self.folder, self.manifest)
        self.statistics = [StatisticsSink(self.folder, self.manifest, kind) for kind in statistics]
        self.sinks = [*([self.values] if values else []), *self.statistics]

    @property
    def missing(self):
        return sorted(set().union(*(sink.missing for sink in self.sinks)))

    def write_part(self, number, acts, nonfinite=None):
        """Pass a part to the sinks that lack it."""
        inputs = read_inputs(self.folder, self.manifest, number, VOCABULARY)
        span = slice(inputs.first, inputs.first + len(inputs.ids))
        join = np.concatenate if acts.provenance.pool == "none" else np.asarray
        for part in [sink.begin(inputs) for sink in self.sinks if number in sink.missing]:
            for site in acts:
                part.put(site, join(acts[site][span]), (nonfinite or {}).get(site, 0))
            part.finish()

    def finish(self):
        manifest = self.manifest
        for sink in self.sinks:
            manifest = sink.declare(manifest)
        self.writer.finish(manifest)


@contextmanager
def writing(folder, plan, prompts=PROMPTS, tokenise=tokenise, progress=None, **options):
    with open_folder(folder, plan.key, *([progress] if progress else [])) as writer:
        yield Writing(writer, plan, prompts, tokenise, **options)


def write(folder, acts, per_part=2, prompts=PROMPTS, tokens_per_part=1000, **options):
    """Write activations part by part, and return the numbers of the parts that were missing."""
    pool, rule = acts.provenance.pool, acts.provenance.token_rule
    with writing(
        folder, manifest(pool, rule, per_part, tokens_per_part), prompts, **options
    ) as writer:
        missing = writer.missing
        for number in missing:
            writer.write_part(number, acts)
        writer.finish()
    return missing


def assert_same(activations, expected, *, provenance=True, atol=0.0):
    """Fail unless activations are equal, their values within a tolerance."""
    for name in ("prompts", "tokens", "sites"):
        assert getattr(activations, name) == getattr(expected, name)
    assert activations.provenance == expected.provenance or not provenance
    for site in activations:
        for a, b in zip(activations[site], expected[site], strict=True):
            assert a.dtype == b.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=atol, rtol=0)


class Killed(BaseException):
    """Raised in place of the end of the process."""


_CHANGES = ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync")


def kill_after(patch, changes):
    """Raise Killed at every change to the disk after the first `changes`."""
    remaining = iter(range(changes))

    def unless_killed(change):
        def attempt(*arguments, **options):
            if next(remaining, None) is None:
                raise Killed
            return change(*arguments, **options)

        return attempt

    for name in _CHANGES:
        patch.setattr(os, name, unless_killed(getattr(os, name)))


def finished_parts(folder, sites):
    """Return the time of modification of each file that no later process may write again.

    A part of the values is finished once it exists at all sites.
    """
    files = list(folder.glob("*-*/part-*.npz"))
    if (folder / "tokens").exists():
        files += [*folder.glob("prompts/part-*"), *folder.glob("tokens/part-*")]
    for path in folder.glob(f"{sites[0]}/part-*.parquet"):
        part = [folder / str(site) / path.name for site in sites]
        files += part if all(file.exists() for file in part) else []
    return {file: file.stat().st_mtime_ns for file in files}


def visible_names(folder):
    """Return the names in a folder, except hidden ones such as locks."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def add_to_store(pool="mean", days=0, **options):
    """Write a folder of the store that was last used some days ago; return it."""
    acts = make_activations(pool)
    folder = store_folder(key(pool))
    write(folder, acts, **options)
    set_age(folder, days)
    return folder


def set_age(folder, days):
    """Make a folder one that was last used some days ago."""
    timestamp = time.time() - days * 86400
    for path in folder.rglob("*"):
        os.utime(path, (timestamp, timestamp))
