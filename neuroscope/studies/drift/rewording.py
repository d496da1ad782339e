"""Distance that harmless rewording causes in the base, a unit for the statistic of drift."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import FIXED_BUDGET, TokenBudget
from neuroscope.extraction.extract import record
from neuroscope.extraction.models import Model
from neuroscope.options import Pool
from neuroscope.prompts import PromptSet
from neuroscope.studies.drift.agreement import Distance, Values
from neuroscope.tokens import TokenBlock


def _other_case(text: str) -> str:
    """Return a text in lower case; in upper case if it has no capital letter."""
    return text.lower() if text != text.lower() else text.upper()


def _other_end(text: str) -> str:
    """Return a text without its final punctuation; with a full stop if it has none."""
    stripped = text.rstrip(".!?")
    return stripped.rstrip() if stripped != text and stripped.strip() else f"{text}."


def _wider_spaces(text: str) -> str:
    """Return a text with two spaces in place of each one."""
    return re.sub(r" +", "  ", text)


REWORDINGS: Mapping[str, Callable[[str], str]] = {
    "case": _other_case,
    "final punctuation": _other_end,
    "double spaces": _wider_spaces,
}
"""Changes of a text that leave its meaning as it is."""


@dataclass(frozen=True)
class Rewording:
    """Distance that one way of rewording the prompts causes in the base."""

    change: str
    """Key of `REWORDINGS`."""
    distance: float
    """Statistic of drift between the prompts and the reworded ones; 0 if no token differs."""
    changed: float
    """Share of the prompts whose tokens differ."""


def rewording_distances(
    model: Model,
    prompts: PromptSet,
    base: Values,
    distance: Distance,
    *,
    pool: Pool,
    truncate: bool,
) -> list[Rewording]:
    """Return the distance that each way of rewording causes in a model.

    Args:
        model: the base.
        prompts: prompts, in the order of the rows of `base`.
        base: activations of the prompts at the deciding sites.
        distance: distance of a site from that of the base.
        pool: way in which they are pooled.
        truncate: whether prompts are cut at the model's limit.
    """
    block = tokenise(model, prompts.prompts, truncate=truncate)
    return [
        _rewording(model, change, prompts, block, base, distance, pool=pool)
        for change in REWORDINGS
    ]


def _rewording(
    model: Model,
    change: str,
    prompts: PromptSet,
    block: TokenBlock,
    base: Values,
    distance: Distance,
    *,
    pool: Pool,
) -> Rewording:
    """Return the distance that one way of rewording causes.

    Reworded prompts that are too long are cut: they are not those of the user.
    """
    reword = REWORDINGS[change]
    reworded = [replace(prompt, text=reword(prompt.text)) for prompt in prompts.prompts]
    other = tokenise(model, reworded, truncate=True)
    changed = np.mean([own.ids != new.ids for own, new in zip(block, other, strict=True)])
    if not changed:
        return Rewording(change, 0.0, 0.0)
    recorded = record(
        model, other, list(base), pool=pool, token_rule="content", budget=TokenBudget(FIXED_BUDGET)
    )
    largest = max(distance.between(base[site], values) for site, values in recorded)
    return Rewording(change, largest, float(changed))


def rewording_unit(rewordings: Sequence[Rewording]) -> float:
    """Return the mean distance of the rewordings that change tokens; NaN if none does."""
    distances = [rewording.distance for rewording in rewordings if rewording.changed]
    return float(np.mean(distances)) if distances else np.nan
