"""Atlases of tiny models, built step by step, from prompts whose topics have words of their own."""

import json
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from stored import Killed

from neuroscope.extraction.extract import extract
from neuroscope.storage.statistics import read_statistics
from neuroscope.studies.atlas.building import (
    AtlasFolder,
    build_database,
    count_shard,
    prepare,
)
from neuroscope.studies.atlas.counts import SiteCounts
from neuroscope.studies.atlas.experiment import atlas_experiment
from neuroscope.studies.atlas.shards import shards_of
from neuroscope.studies.atlas.topics import TopicIndex
from neuroscope.studies.subjects import extraction_spec, subjects_of

WORDS = {
    "animals": ("cat", "dog"),
    "people": ("man", "woman"),
    "royals": ("king", "queen"),
    "trades": ("engineer", "nurse"),
}
"""Topic -> the words that only its prompts contain."""
FILLERS = "the a is was sits on in mat house black white small very old young and".split()


def topical_rows(count=400, seed=0, *, words=WORDS, **columns):
    """Return rows of prompts in random order, with three words of their topic among 5 to 10.

    `columns` maps further columns to functions of the row and the generator.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        topic = str(rng.choice(list(words)))
        own = [*rng.choice(words[topic], 3), *rng.choice(FILLERS, rng.integers(2, 8))]
        row = {"text": " ".join(rng.permutation(own)), "topic": topic}
        rows.append(row | {name: value(row, rng) for name, value in columns.items()})
    return rows


def write_rows(path, rows):
    """Write rows as JSON lines and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def experiment_of(prompts, model="minilm", **settings):
    """Return the experiment of an atlas of a model, from a file or another source of prompts."""
    source = prompts if isinstance(prompts, dict) else {"file": str(prompts)}
    return atlas_experiment("", [str(model)], source, **settings)


def index_of(prompts, **settings):
    """Return the topics of a file of prompts."""
    return TopicIndex.of(experiment_of(prompts, **settings))


class AtlasSteps:
    """The steps that build an atlas of a loaded model; files are in the home."""

    def __init__(self, model, prompts, **settings):
        self.model = model
        self.load = lambda: model
        self.experiment = experiment_of(prompts, model.checkpoint.folder, **settings)
        (subject,) = subjects_of(self.experiment)
        self.spec = extraction_spec(self.experiment, subject, pool=self.experiment.pool)

    @cached_property
    def files(self):
        return AtlasFolder.of(self.experiment, self.spec)

    @property
    def topics(self):
        return TopicIndex.load(self.files.topics)

    def prepare(self):
        """Index the topics and run the pilot; return the files of the atlas."""
        return prepare(self.experiment, self.spec, self.load)

    def shards(self):
        return shards_of(self.experiment.prompt_set, self.experiment.shards)

    def count(self):
        """Return the folder of the counts of each shard."""
        files = self.prepare()
        return [
            count_shard(self.experiment, self.spec, shard, files, self.load)
            for shard in self.shards()
        ]

    def build(self):
        """Return the path of the database."""
        shards = self.count()
        return build_database(self.experiment, self.spec, shards, self.files, self.load)

    def extract(self, pool=None):
        """Return the activations of all prompts, in memory."""
        sites = [str(site) for site in self.spec.sites]
        prompts = list(self.experiment.prompt_set)
        return extract(
            self.model, [prompt.text for prompt in prompts], sites, pool=pool or self.spec.pool
        )


@contextmanager
def counted_passes(model):
    """Yield a list that grows by the number of prompts of each forward pass."""
    passes = []
    hook = model.module.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        yield passes
    finally:
        hook.remove()


@contextmanager
def killed_at_pass(model, number):
    """Raise Killed at the forward pass after the first `number`."""
    remaining = iter(range(number))

    def stop(*_):
        if next(remaining, None) is None:
            raise Killed

    hook = model.module.register_forward_pre_hook(stop)
    try:
        yield
    finally:
        hook.remove()


def query(path: Path, sql, *values):
    """Return the rows that a query of a database selects, as a data frame."""
    import duckdb

    with closing(duckdb.connect(str(path), read_only=True)) as connection:
        return connection.execute(sql, values).df()


def merged_counts(steps, folders):
    """Return the counts of each site over all parts of some shards."""
    total = {}
    for folder in folders:
        for arrays in read_statistics(folder, steps.files.statistics_name):
            for site in steps.spec.sites:
                start = f"{site}/"
                own = {name.removeprefix(start): arrays[name] for name in arrays if start in name}
                counts = SiteCounts.from_arrays(own)
                total[site] = total[site].merge(counts) if site in total else counts
    return total
