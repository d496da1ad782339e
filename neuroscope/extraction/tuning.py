"""Which budget of tokens a model is fastest with on this machine: measured once, then remembered.

Too few tokens in a batch leave the processor waiting, too many fall out of its caches. What is
computed while budgets are tried is thrown away, so that every value of a job comes from batches of
one size, and the same job gives the same values again.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.extraction.batching import Batch, batches
from neuroscope.extraction.budget import TokenBudget, usual_budget
from neuroscope.extraction.models import Model
from neuroscope.extraction.pooling import pooling
from neuroscope.extraction.reading import read_sites
from neuroscope.files import written_whole
from neuroscope.home import home
from neuroscope.sites import Site
from neuroscope.tokens import TokenBlock

if TYPE_CHECKING:
    from neuroscope.extraction.recorder import Keep

SAMPLE = 16
"""Times the usual budget: tokens of prompts that the trials should be given."""

_log = logging.getLogger("neuroscope")

_SHARES = (0.15, 0.5, 0.85)  # where among the batches, the longest prompts first, trials are taken
_ROUNDS = 2  # of trials; the faster one counts, as the first meets cold caches
_WORTHWHILE = 1.03  # less of a gain may be chance


def fastest_budget(model: Model, sites: Sequence[Site], sample: Callable[[], TokenBlock]) -> int:
    """Tokens a batch that this model is fastest with here.

    Args:
        model: in memory.
        sites: what is to be recorded.
        sample: gives prompts to try with, asked only if this model has not been tried here yet.
    """
    path = _remembered_at(model)
    if remembered := _remembered(path):
        return remembered
    block = sample()
    found = climb(
        usual_budget(str(model.device)), lambda budgets: measure(model, sites, block, budgets)
    )
    return _remembered(path) or _remember(path, found, model.name)  # another may have been faster


def _remembered(path: Path) -> int | None:
    """What was found earlier, or None where nothing was, or a damaged file tells nothing."""
    try:
        tokens = int(json.loads(path.read_text(encoding="utf-8"))["tokens"])
        return tokens if tokens > 0 else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def _remember(path: Path, tokens: int, name: str) -> int:
    try:
        path.parent.mkdir(exist_ok=True)
        with written_whole(path, alone=False) as file:
            file.write(json.dumps({"tokens": tokens, "model": name}).encode())
    except OSError as error:
        _log.warning(
            "%d tokens a batch are fastest, which cannot be remembered in %s (%s): the next large"
            " job will try again",
            *(tokens, path.parent, error.strerror),
        )
    return tokens


def climb(start: int, speeds: Callable[[Sequence[int]], Sequence[float]]) -> int:
    """The budget from which neither half nor twice of it is faster.

    Args:
        start: stays unless another is clearly faster.
        speeds: tokens a second of each of several budgets, measured beside each other.
    """
    best, tried = start, [start, max(1, start // 2), start * 2]
    while True:
        rates = dict(zip(tried, speeds(tried), strict=True))
        fastest = max(rates, key=lambda budget: rates[budget])
        if rates[fastest] <= _WORTHWHILE * rates[best]:
            return best
        best, tried = fastest, [fastest, max(1, fastest * fastest // best)]


def measure(
    model: Model, sites: Sequence[Site], block: TokenBlock, budgets: Sequence[int]
) -> list[float]:
    """Tokens a second with each budget, padding left out; 0 where memory does not suffice."""
    trials = {budget: _trials(model, block, budget) for budget in budgets}
    seconds = dict.fromkeys(budgets, float("inf"))
    for _ in range(_ROUNDS):
        for budget, batches_ in trials.items():
            seconds[budget] = min(seconds[budget], _seconds(model, sites, batches_, budget))
    return [
        sum(int(batch.mask.sum()) for batch in trials[budget]) / seconds[budget]
        for budget in budgets
    ]


def _trials(model: Model, block: TokenBlock, budget: int) -> list[Batch]:
    made = list(batches(model, block, rule="content", budget=TokenBudget(budget)))
    return [made[int(share * len(made))] for share in _SHARES]


def _seconds(model: Model, sites: Sequence[Site], trials: list[Batch], tokens: int) -> float:
    """How long passes take; for ever where they had to be divided."""

    def keep(batch: Batch) -> "Keep":
        return pooling("mean", batch.kept)

    budget = TokenBudget(tokens)
    start = time.perf_counter()
    for _, _, values in read_sites(model, trials, sites, keep, budget):
        values.cpu()  # waits for the device
    return time.perf_counter() - start if budget() == tokens else float("inf")


def _remembered_at(model: Model) -> Path:
    """Where the finding for a model on this machine is kept."""
    import torch

    machine = (
        torch.cuda.get_device_name(model.device)
        if model.device.type == "cuda"
        else f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    )
    name = model.checkpoint.fingerprint
    parts = (name, model.device, machine, model.dtype, model.attention, torch.__version__)
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()
    return home() / "budgets" / f"{digest[:32]}.json"
