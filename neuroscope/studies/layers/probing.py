"""Probes for a label and for the identity of tokens at each layer."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroscope.activations import Floats
from neuroscope.prompts import Prompt, Prompts
from neuroscope.sites import Site
from neuroscope.stats.probes import LEAST_PER_CLASS, Probe, probe_activations, probe_tokens
from neuroscope.storage.activation_store import read_activations, read_parts
from neuroscope.tokens import TokenBlock

MOST_TOKENS = 20_000
"""Maximum number of tokens that are stored one by one, to probe for their identity."""
MOST_TOKEN_BYTES = 512e6
"""Maximum bytes of their values over all sites."""
_MOST_TYPES = 60  # distinct tokens among which the probe chooses: the most frequent ones
_LEAST_OCCURRENCES = 8  # per distinct token
_MOST_OCCURRENCES = 24  # per distinct token


@dataclass(frozen=True)
class Sample:
    """Prompts that the probes for the label use."""

    indices: tuple[int, ...]
    """Indices of the prompts, in ascending order."""
    labels: tuple[str, ...]
    """Value of the label for each of these prompts."""


def sample_labelled(prompts: Prompts, label: str, most: int, seed: int) -> Sample:
    """Draw about `most` prompts that have a label, with every value in proportion."""
    members: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        if label in prompt.labels:
            members.setdefault(prompt.labels[label], []).append(index)
    labelled = sum(map(len, members.values()))
    rng = np.random.default_rng(seed)
    chosen: list[tuple[int, str]] = []
    for value in sorted(members):
        share = max(LEAST_PER_CLASS, round(most * len(members[value]) / labelled))
        drawn = rng.permutation(members[value])[:share].tolist()
        chosen += [(index, value) for index in drawn]
    indices, labels = zip(*sorted(chosen), strict=True)
    return Sample(indices, labels)


def sample_for_tokens(folder: Path, neurons: int, seed: int) -> list[Prompt]:
    """Draw the prompts whose tokens are stored one by one, to probe for their identity.

    Args:
        folder: folder of the pooled activations of all prompts.
        neurons: number of neurons over all sites.
        seed: seed of the draw.
    """
    prompts: list[Prompt] = []
    counts: list[int] = []
    for part in read_parts(folder, []):
        prompts += part.prompts
        counts += part.tokens.kept_counts("content").tolist()
    most = min(MOST_TOKENS, int(MOST_TOKEN_BYTES / 4 / neurons))
    order = np.random.default_rng(seed).permutation(len(prompts))
    fitting = int(np.searchsorted(np.cumsum(np.array(counts)[order]), most, side="right"))
    return [prompts[index] for index in sorted(order[: max(fitting, 1)].tolist())]


def probe_label(folder: Path, site: Site, sample: Sample, seed: int) -> Probe:
    """Return the probe for the label on the stored activations of a site."""
    return probe_activations(_sampled(folder, site, sample), sample.labels, seed=seed)


def probe_bag(folder: Path, sample: Sample, seed: int) -> Probe:
    """Return the probe for the label on how often each token occurs in a prompt."""
    chosen, tokens, first = set(sample.indices), [], 0
    for part in read_parts(folder, []):
        tokens += [
            np.array(read.ids)[read.content]
            for index, read in enumerate(part.tokens, first)
            if index in chosen
        ]
        first += len(part.prompts)
    return probe_tokens(tokens, sample.labels, seed=seed)


def probe_identity(folder: Path, site: Site, seed: int) -> Probe | None:
    """Return the probe for the identity of tokens at a site; None if too few occur repeatedly.

    Args:
        folder: folder of the activations at token level.
        site: site that is stored there.
        seed: seed for drawing tokens and for splitting them into train and test.
    """
    activations = read_activations(folder, [site])
    rows, labels = token_sample(activations.tokens, seed)
    if not labels:
        return None
    return probe_activations(np.concatenate(activations[site])[rows], labels, seed=seed)


def token_sample(tokens: TokenBlock, seed: int) -> tuple[NDArray[np.int64], list[str]]:
    """Draw occurrences of frequent tokens, to probe for the identity of the token.

    The sample contains the 60 most frequent tokens that occur at least 8 times, with at most 24
    occurrences of each. It is empty if there are fewer than two such tokens.

    Returns:
        Rows of the sample among all content tokens, and the token of each row.
    """
    ids = tokens.ids[tokens.kept("content")]
    counts = Counter(ids.tolist())
    frequent = [id for id, count in counts.most_common(_MOST_TYPES) if count >= _LEAST_OCCURRENCES]
    if len(frequent) < 2:
        return np.zeros(0, dtype=np.int64), []
    rng = np.random.default_rng(seed)
    rows = [
        np.sort(rng.permutation(np.flatnonzero(ids == id))[:_MOST_OCCURRENCES]) for id in frequent
    ]
    labels = [str(id) for id, chosen in zip(frequent, rows, strict=True) for _ in chosen]
    return np.concatenate(rows), labels


def _sampled(folder: Path, site: Site, sample: Sample) -> Floats:
    """Return the activations of the sampled prompts at a site, (sampled prompts, neurons)."""
    indices, first, rows = np.array(sample.indices), 0, []
    for part in read_parts(folder, [site]):
        values = part[site]
        within = indices[(indices >= first) & (indices < first + len(values))] - first
        rows.append(values[within])
        first += len(values)
    return np.concatenate(rows)
