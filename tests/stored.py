"""Small activations to store: three prompts at two sites, in two parts."""

from dataclasses import replace

import numpy as np

from neuroscope.activations import Activations, Provenance
from neuroscope.prompts import Prompt, PromptSet
from neuroscope.sites import Site
from neuroscope.storage.manifest import ActivationKey, Manifest
from neuroscope.storage.unfinished import (
    unfinished_activations,
)
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
    ends = np.cumsum([len(one) for one in ids])
    return TokenBlock(np.concatenate(ids).astype(np.int32), ends, VOCABULARY)


def key(pool="mean", rule="content", **others):
    values = {"fingerprint": "f" * 64, "prompts_digest": PROMPTS.digest, "sites": (RESID, MLP)}
    values |= {"pool": pool, "token_rule": rule, "truncated": False}
    return ActivationKey(**values | {"dtype": "float32", "attention": "sdpa"} | others)


def manifest(pool="mean", rule="content", per_part=2, tokens_per_part=1000):
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


def complete(pool="mean", **options):
    return replace(manifest(pool, **options), parts=(2, 1))


def opened(folder, plan, prompts=PROMPTS, **options):
    return unfinished_activations(
        folder, plan.key, lambda begun: plan, prompts, tokenise, **options
    )


def make(pool="mean", rule="content", seed=0):
    """Activations of the prompts at two sites of different width."""
    random = np.random.default_rng(seed)
    kept = tokenise(PROMPTS).kept_counts(rule)

    def array(neurons):
        if pool != "none":
            return random.normal(size=(len(PROMPTS), neurons)).astype(np.float32)
        return [random.normal(size=(count, neurons)).astype(np.float32) for count in kept]

    arrays = {site: array(neurons) for site, neurons in NEURONS.items()}
    return Activations(PROMPTS, tokenise(PROMPTS), arrays, manifest(pool, rule).provenance)


def write(folder, acts, per_part=2, prompts=PROMPTS, tokens_per_part=1000):
    """Writes activations part by part, and gives the numbers of the parts that were missing."""
    pool, rule = acts.provenance.pool, acts.provenance.token_rule
    plan = manifest(pool, rule, per_part, tokens_per_part)
    with opened(folder, plan, prompts) as unfinished:
        missing = list(unfinished.missing)
        for number in missing:
            write_part(unfinished, number, acts)
        unfinished.finish()
    return missing


def write_part(unfinished, number, acts):
    place = unfinished.manifest.part("prompts", number)
    span = slice(place.first, place.first + place.prompts)
    ids, block = unfinished.inputs(number, VOCABULARY)
    join = np.concatenate if acts.provenance.pool == "none" else np.asarray
    values = ((site, join(acts[site][span])) for site in acts)
    unfinished.write(number, ids, block, values, {})


def assert_same(one, other):
    assert (one.prompts, one.tokens, one.sites) == (other.prompts, other.tokens, other.sites)
    assert one.provenance == other.provenance
    for site in one:
        for a, b in zip(one[site], other[site], strict=True):
            assert a.dtype == b.dtype == np.float32
            np.testing.assert_array_equal(a, b)


class Killed(BaseException):
    """Stands for the end of the process."""
