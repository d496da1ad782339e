"""Helpers that store activations of tiny real models in parts of a few prompts."""

import random

import numpy as np

from neuroscope.prompts import PromptSet
from neuroscope.sites import resolve_sites
from neuroscope.storage.statistics import read_statistics
from neuroscope.studies.store.division import PartLimits
from neuroscope.studies.store.spec import ExtractionSpec
from neuroscope.studies.store.store import store_activations

WORDS = "the a an cat dog engineer man woman is was on in mat house black white . , ! ?".split()
SITES = ["resid_post", "mlp_act"]
CLOSE = 5e-5
"""Tolerance between two ways to compute the same value in float32."""
SMALL_PARTS = PartLimits(bytes=7 * ((2 * 32 + 2 * 48) * 4 + 17 * 256), full_batches=0)
"""Parts of about seven prompts at two sites of a tiny model."""


def random_prompts(count, seed=0):
    rng = random.Random(seed)
    return PromptSet.of([" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(count)])


def spec_of(model, prompts, sites=SITES, layers="all", **options):
    return ExtractionSpec(
        checkpoint=model.checkpoint,
        prompts=PromptSet.of(prompts),
        sites=tuple(resolve_sites(sites, layers, model.layer_count)),
        **options,
    )


def store(folder, model, prompts, sites=SITES, *, limits=SMALL_PARTS, spec=None, **options):
    """Store activations in parts of a few prompts; `spec` holds fields of the specification."""
    specification = spec_of(model, prompts, sites, **(spec or {}))
    return store_activations(specification, folder, lambda: model, limits=limits, **options)


class Norms:
    """Statistics: the sum of token norms per prompt and site, and the number of tokens."""

    def __init__(self, name="norms-1"):
        self.name = name
        self.parts = []
        """Index of the first prompt and number of prompts, for each computed part."""

    def rider(self, ids, block, first):
        self.parts.append((first, len(ids)))
        return NormsOfPart(len(ids))


class NormsOfPart:
    def __init__(self, prompts):
        self.prompts = prompts
        self.sums, self.tokens = {}, 0

    def reduce(self, site, batch):
        return lambda values: (values.float().norm(dim=2) * batch.kept).sum(dim=1)

    def add(self, site, batch, reduced):
        sums = self.sums.setdefault(str(site), np.zeros(self.prompts))
        sums[batch.members] += reduced.cpu().numpy()
        self.tokens += int(batch.kept.sum())

    def arrays(self):
        return {**self.sums, "tokens": np.array(self.tokens)}


def joined_statistics(folder, name, site):
    """Return the statistics of a site, concatenated over all parts."""
    return np.concatenate([arrays[str(site)] for arrays in read_statistics(folder, name)])
