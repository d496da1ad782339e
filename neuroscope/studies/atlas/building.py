"""Steps of building an atlas of one model: pilot, passes over the shards, and the database."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.memory import give_back_memory
from neuroscope.extraction.models import Model
from neuroscope.extraction.neuron_weights import weight_profile
from neuroscope.files import absolute
from neuroscope.home import create_home
from neuroscope.options import Memory
from neuroscope.progress import Progress, silent
from neuroscope.sites import Site
from neuroscope.stats.confounds import q_values
from neuroscope.stats.group_moments import activation_entropy, entropy_selected
from neuroscope.storage.activation_store import store_folder
from neuroscope.storage.atlas_intact import is_intact
from neuroscope.storage.atlas_writing import unfinished_folders, write_atlas
from neuroscope.storage.disk import disk_errors
from neuroscope.storage.locks import locked
from neuroscope.studies.atlas.counts import AtlasStatistics, Context, SiteCounts
from neuroscope.studies.atlas.directions import direction_areas, direction_frame
from neuroscope.studies.atlas.experiment import AtlasExperiment
from neuroscope.studies.atlas.frames import (
    SiteMeasures,
    covariate_frame,
    example_frame,
    neuron_frame,
    prompt_frames,
    selectivity_frame,
    token_frame,
    topic_frame,
)
from neuroscope.studies.atlas.kept import kept_in
from neuroscope.studies.atlas.measures import Confounds, selectivity_of, verdicts_of
from neuroscope.studies.atlas.merging import merged_counts, merged_prompts, merged_tokens
from neuroscope.studies.atlas.pilot import Pilot, run_pilot
from neuroscope.studies.atlas.provenance import model_frame
from neuroscope.studies.atlas.shards import Shard
from neuroscope.studies.atlas.topics import TopicIndex
from neuroscope.studies.store.spec import ExtractionSpec
from neuroscope.studies.store.store import StoredActivations, store_activations
from neuroscope.tokens import Vocabulary

_VERSION = 2
"""Version of what is counted and measured; other versions are computed again."""
_SAMPLE = 256  # prompts from which the random examples are drawn
_WEIGHT_RANKS = 10  # tokens and neighbours per neuron
_COUNTED = (
    *("topic", "separator", "source", "split", "least_prompts", "leave_out", "pilot", "examples"),
    "seed",
)
"""Keys of an experiment that determine the counts, in addition to those of the extraction."""
_JUDGED = ("min_auroc", "min_lift", "min_one_vs_one", "max_q")
"""Keys that determine the verdicts."""


@dataclass(frozen=True)
class AtlasFolder:
    """Folder with the files of an atlas, which are complete as soon as they exist."""

    path: Path
    digest: str
    """Digest of what determines the counts."""
    verdicts: str
    """Digest of the thresholds and of the name of the model."""

    @classmethod
    def of(
        cls, experiment: AtlasExperiment, spec: ExtractionSpec, path: Path | None = None
    ) -> "AtlasFolder":
        """Return the folder of an experiment in one model: `path`, or one in the home folder."""
        digest = _digest(experiment, _COUNTED, spec.key.digest)
        path = path or create_home("atlas", digest)
        judged = _digest(experiment, _JUDGED, spec.checkpoint.pinned_name)
        return cls(path, digest, judged)

    @property
    def topics(self) -> Path:
        """File of what is known of the prompts apart from the model."""
        return self.path / "topics.npz"

    @property
    def pilot(self) -> Path:
        """File of the edges and regressions."""
        return self.path / "pilot.npz"

    def atlas(self, *, streamed: bool) -> Path:
        """Return the path of the database; that of a streamed model lacks what weights say."""
        return self.path / f"atlas-{self.verdicts}{'-streamed' * streamed}.duckdb"

    def stored_atlas(self, memory: Memory) -> Path | None:
        """Return the intact database of a model, None if there is none.

        Args:
            memory: placement of the weights; with `auto`, only the loaded model tells whether a
                database without what weights say is the right one.
        """
        path = self.atlas(streamed=memory == "stream")
        return path if is_intact(path) else None

    def discard(self, path: Path) -> None:
        """Remove a damaged database, and the folders of processes that were killed writing it."""
        path.unlink(missing_ok=True)
        for folder in unfinished_folders(path):
            shutil.rmtree(folder, ignore_errors=True)

    def statistics(self, experiment: AtlasExperiment, offset: int) -> AtlasStatistics:
        """Return the statistics of a shard whose first prompt has the index `offset`."""
        topics = TopicIndex.load(self.topics)
        context = Context(topics, experiment.examples, topics.sample(_SAMPLE))
        return AtlasStatistics(
            self.statistics_name, context, Pilot.load(self.pilot), experiment.pool, offset
        )

    @property
    def statistics_name(self) -> str:
        """Name of the stored counts."""
        return f"atlas-{self.digest}"


def _digest(experiment: AtlasExperiment, keys: Sequence[str], *more: str) -> str:
    """Return a digest of some keys of an experiment."""
    document = experiment.document()
    content = [_VERSION, *more, *(document[key] for key in keys)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def prepare(
    experiment: AtlasExperiment,
    spec: ExtractionSpec,
    load: Callable[[], Model],
    progress: Progress = silent,
    path: Path | None = None,
) -> AtlasFolder:
    """Index the topics of the prompts and run the pilot, unless both exist.

    Args:
        experiment: experiment that is run.
        spec: extraction of all prompts.
        load: function that returns the model; called only if the pilot does not exist.
        progress: callback of the pilot.
        path: existing folder for the files of the atlas; by default one in the home folder.
    """
    folder = AtlasFolder.of(experiment, spec, path)
    topics = kept_in(folder.topics, TopicIndex.load, lambda: experiment.topic_index)

    def pilot() -> Pilot:
        return run_pilot(load(), spec, topics, experiment.pilot, experiment.examples, progress)

    kept_in(folder.pilot, Pilot.load, pilot)
    return folder


def count_shard(
    experiment: AtlasExperiment,
    spec: ExtractionSpec,
    shard: Shard,
    folder: AtlasFolder,
    load: Callable[[], Model],
    progress: Progress = silent,
    path: Path | None = None,
) -> Path:
    """Count the prompts of a shard, unless that is done; return the folder of the counts.

    Args:
        experiment: experiment that is run.
        spec: extraction of all prompts.
        shard: prompts to count.
        folder: files of the atlas.
        load: function that returns the model; called only if the counts are not complete.
        progress: callback of the pass.
        path: folder for the counts; by default one in the store of activations.
    """
    own = replace(spec, prompts=shard)
    stored: StoredActivations = store_activations(
        own,
        path or store_folder(own.key),
        load,
        statistics=[folder.statistics(experiment, shard.first)],
        values=False,
        progress=progress,
    )
    return stored.folder


def build_database(
    experiment: AtlasExperiment,
    spec: ExtractionSpec,
    shards: Sequence[Path],
    folder: AtlasFolder,
    load: Callable[[], Model],
    progress: Progress = silent,
) -> Path:
    """Merge the counts of all shards, measure every neuron, and write the database.

    Args:
        experiment: experiment that is run.
        spec: extraction of all prompts.
        shards: folders of the counts, in the order of the prompts.
        folder: files of the atlas.
        load: function that returns the model; called only if the database does not exist.
        progress: callback of the last pass, which measures directions.
    """
    if stored := folder.stored_atlas(experiment.memory):
        return stored
    with locked(folder.path / folder.verdicts, progress):
        if stored := folder.stored_atlas(experiment.memory):  # written by another process meanwhile
            return stored
        model = load()
        path = folder.atlas(streamed=model.streamed)
        if not is_intact(path):
            tables = _tables(experiment, spec, shards, folder, model, progress)
            with disk_errors(folder.path):
                folder.discard(path)
            write_atlas(absolute(path), tables)
    return path


def _tables(
    experiment: AtlasExperiment,
    spec: ExtractionSpec,
    shards: Sequence[Path],
    folder: AtlasFolder,
    model: Model,
    progress: Progress,
) -> dict[str, Any]:
    """Return the rows of all tables, for `write_atlas`; those of large tables are generated."""
    topics, pilot = TopicIndex.load(folder.topics), Pilot.load(folder.pilot)
    counts = merged_counts(shards, folder.statistics_name, spec.sites)
    block = merged_tokens(shards, model.vocabulary)
    tokens = block.kept_counts(spec.token_rule)
    confounds = Confounds.of(topics, tokens)
    measures = _measures(experiment, spec, counts, pilot, topics, confounds)
    stored = partial(merged_prompts, shards, spec.prompts.digest)
    areas = direction_areas(model, spec, stored(), topics, counts, progress)
    profile = weight_profile(model, spec.sites, _WEIGHT_RANKS)
    give_back_memory()  # the database needs as much again
    words = _words(model.vocabulary)
    return {
        "model": model_frame(experiment, spec, topics, confounds),
        "prompt": prompt_frames(stored(), topics, block, tokens),
        "token": token_frame(model.vocabulary),
        "topic": topic_frame(topics, confounds, measures),
        "covariate": covariate_frame(confounds),
        "neuron": (neuron_frame(part, profile, words) for part in measures),
        "selectivity": (selectivity_frame(part) for part in measures),
        "example": (example_frame(part, block) for part in measures),
        "direction": direction_frame(areas, measures),
    }


def _words(vocabulary: Vocabulary) -> list[str]:
    """Return the display text of each token."""
    return [vocabulary.display(id) for id in range(len(vocabulary.texts))]


def _measures(
    experiment: AtlasExperiment,
    spec: ExtractionSpec,
    counts: Mapping[Site, SiteCounts],
    pilot: Pilot,
    topics: TopicIndex,
    confounds: Confounds,
) -> list[SiteMeasures]:
    """Return the measures of all sites; q-values are corrected over all of them together."""
    measured = {site: selectivity_of(counts[site], topics) for site in spec.sites}
    q = np.split(
        q_values(np.concatenate([part.p for part in measured.values()])),
        np.cumsum([len(part.p) for part in measured.values()])[:-1],
    )
    shares = topics.members[topics.heldout].mean(axis=0)
    entropies = _entropies(spec, counts)
    firsts = np.cumsum([0, *(len(part.p) for part in measured.values())]).tolist()
    return [
        SiteMeasures(
            site,
            first,
            counts[site],
            pilot.sites[site].edges,
            own,
            verdicts_of(own, own_q, shares, confounds.separable, experiment),
            own_q,
            *entropies[site],
        )
        for (site, own), own_q, first in zip(measured.items(), q, firsts[:-1], strict=True)
    ]


def _entropies(
    spec: ExtractionSpec, counts: Mapping[Site, SiteCounts]
) -> dict[Site, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Return the entropy of each neuron over the topics, and whether it is among the lowest.

    The entropy is NaN unless neurons are off or on: those of gated MLPs and with a ReLU.
    """
    checkpoint = spec.checkpoint
    defined = spec.sites[0].component == "mlp_act" and checkpoint.architecture.silences(
        checkpoint.config
    )
    if not defined:
        widths = {site: part.active.shape[1] for site, part in counts.items()}
        return {
            site: (np.full(width, np.nan), np.zeros(width, dtype=bool))
            for site, width in widths.items()
        }
    shares = {site: _active_shares(part) for site, part in counts.items()}
    everything = np.concatenate([*shares.values()], axis=1)
    selected = entropy_selected(everything, activation_entropy(everything))
    ends = np.cumsum([part.shape[1] for part in shares.values()])[:-1]
    return {
        site: (activation_entropy(part), own)
        for (site, part), own in zip(shares.items(), np.split(selected, ends), strict=True)
    }


def _active_shares(counts: SiteCounts) -> NDArray[np.float64]:
    """Return the share of each topic's prompts at which a neuron is positive, (topics, neurons)."""
    prompts = counts.moments[0].count + counts.moments[1].count
    shares: NDArray[np.float64] = counts.active[1:] / np.maximum(prompts[1:], 1)[:, None]
    return shares
