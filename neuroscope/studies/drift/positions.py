"""Change by the position of a token in its prompt: of the residual stream, and of the outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.pair_changes import Behaviour, Passes
from neuroscope.extraction.stream_changes import bucket_name, position_buckets
from neuroscope.sites import Site
from neuroscope.stats.moments import Doubles
from neuroscope.studies.drift.changed_prompts import rounded


@dataclass(frozen=True, eq=False)
class Positions:
    """Change by layer, topic and position.

    The last row of topics is that of all prompts. Buckets of positions without a content token are
    left out.
    """

    buckets: tuple[str, ...]
    """Positions in a prompt, counted from 0 with special tokens, such as `4-7`."""
    topics: tuple[str, ...]
    """Topics of all rows but the last."""
    sites: tuple[str, ...]
    """Sites of the residual stream; empty for models of different shapes."""
    change: Doubles
    """(sites, topics + 1, buckets) root mean squared change of the residual stream at the content
    tokens, in units of its spread in the base at these positions; see `StreamChange.relative`."""
    tokens: NDArray[np.int64]
    """(topics + 1, buckets) number of positions at which outputs are compared."""
    divergence: Doubles
    """(topics + 1, buckets) mean over these of the divergence of the outputs, as in
    `PromptDrift.values`; NaN without positions."""

    def to_dict(self) -> dict[str, Any]:
        """Return the arrays as nested lists of numbers with four significant digits."""
        return {
            "buckets": list(self.buckets),
            "topics": list(self.topics),
            "sites": list(self.sites),
            "change": rounded(self.change).tolist(),
            "tokens": self.tokens.tolist(),
            "divergence": rounded(self.divergence).tolist(),
        }


def position_drift(
    passes: Passes, groups: NDArray[np.int64], names: Sequence[str], order: Sequence[str]
) -> Positions:
    """Return the change by position.

    Args:
        passes: passes of both models.
        groups: (prompts,) number of each prompt's topic.
        names: topic of each number; there may be one more number, for prompts without a topic.
        order: topics that are returned, in their order.
    """
    kept = [*(names.index(topic) for topic in order), -1]
    tokens, divergence = _outputs(passes.behaviour, groups)
    if passes.stream is None:
        shown = tokens[-1] > 0
        sites: tuple[Site, ...] = ()
        change: Doubles = np.empty((0, *divergence.shape))
    else:
        sites, change = passes.stream.sites, passes.stream.relative()
        shown = passes.stream.tokens[-1] > 0  # outputs are compared at some of these tokens
        tokens, divergence = _wide(tokens, len(shown)), _wide(divergence, len(shown))
    return Positions(
        buckets=tuple(bucket_name(bucket) for bucket in np.flatnonzero(shown).tolist()),
        topics=tuple(order),
        sites=tuple(map(str, sites)),
        change=change[:, kept][:, :, shown],
        tokens=tokens[kept][:, shown],
        divergence=divergence[kept][:, shown],
    )


def _outputs(behaviour: Behaviour, groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], Doubles]:
    """Return the number of positions and the mean divergence, (groups + 1, buckets) each."""
    buckets = position_buckets(behaviour.positions)
    shape = int(groups.max()) + 1, int(buckets.max()) + 1
    cells = groups[behaviour.prompts] * shape[1] + buckets
    size = shape[0] * shape[1]
    tokens, sums = (
        np.bincount(cells, weights, size).reshape(shape) for weights in (None, behaviour.divergence)
    )
    tokens, sums = (np.vstack([values, values.sum(axis=0)]) for values in (tokens, sums))
    return tokens, np.divide(sums, tokens, out=np.full(sums.shape, np.nan), where=tokens > 0)


def _wide(values: NDArray[Any], width: int) -> NDArray[Any]:
    """Return values by bucket with further, empty buckets."""
    empty = np.nan if values.dtype.kind == "f" else 0
    pad = [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])]
    return np.pad(values, pad, constant_values=empty)
