"""Scores of pairs of prompts: how often the first is likelier, beside built control pairs."""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import PromptError
from neuroscope.extraction.batching import texts_of, tokenise
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.likelihood import (
    LikelihoodMeasure,
    check_likelihood,
    likelihood_measure,
    token_log_likelihoods,
)
from neuroscope.extraction.models import Model
from neuroscope.files import absolute
from neuroscope.labels import counted
from neuroscope.options import Dtype
from neuroscope.progress import Progress, silent
from neuroscope.prompts import PromptPair
from neuroscope.reporting.tracking import Tracker
from neuroscope.studies.association.pairs_outputs import record_pairs
from neuroscope.studies.association.pairs_result import PairsResult, ScoredPair
from neuroscope.studies.association.pairs_settings import PairsSettings
from neuroscope.studies.association.pairs_tokens import ControlTokens, PairTokens, joined_block
from neuroscope.studies.models import find_model, load_model
from neuroscope.tokens import TokenBlock

_NAMED = 3  # ids of pairs in a note

Doubles = NDArray[np.float64]


def score_pairs(
    model: Model | str,
    pairs_file: str | Path,
    *,
    a_column: str = "prompt_a",
    b_column: str = "prompt_b",
    seed: int = 0,
    truncate: bool = False,
    device: str = "auto",
    dtype: Dtype = "float32",
    tracker: Tracker | None = None,
    name: str = "",
    note: str = "",
    progress: Progress = silent,
) -> PairsResult:
    """Return in how many pairs of a file the first prompt is likelier than the second.

    In a masked language model, the pseudo-log-likelihoods of the tokens that both prompts share are
    compared, as in CrowS-Pairs (Nangia et al. 2020, arXiv:2010.00133), each by PLL-word-l2r; in a
    causal model the log-likelihoods of the whole prompts. Beside the score is that of control
    pairs, in which other words of similar frequency take the place of those that differ.

    >>> ns.score_pairs("bert-base-uncased", "pairs.csv").headline

    Args:
        model: loaded model with its head, or the name of a model.
        pairs_file: `.csv`, `.tsv`, `.jsonl` or `.parquet` with one pair per row; columns other than
            those of the prompts are labels.
        a_column: name of the column of the first prompts.
        b_column: name of the column of the second prompts.
        seed: seed of the control pairs.
        truncate: whether to cut prompts at the model's limit instead of refusing them.
        device: device on which a model that is named is loaded.
        dtype: number format in which it is loaded.
        tracker: tracker that records the result in MLflow; by default it is not recorded.
        name: name of the run's experiment; by default that of the file.
        note: description of the run.
        progress: callback that receives how many prompts have been read.

    Raises:
        PromptError: the file or one of its pairs cannot be used, or no pair can be scored.
        HeadlessError: the model has no language-model head.
        ModelError: the model cannot be used.
        NonfiniteError: the model computes NaN or infinity.
    """
    settings = PairsSettings(
        absolute(pairs_file), a_column, b_column, name, note, seed, truncate, device, dtype
    )
    pairs = settings.read()
    checked = check_models([model])
    return run_pairs(checked, pairs, settings, tracker, progress)[0]


def check_models(models: Sequence[Model | str]) -> list[Model | Checkpoint]:
    """Return loaded models and the files of named ones, after a check that all can score prompts.

    Raises:
        HeadlessError: a model has no language-model head.
        ModelError: a model does not exist or cannot be used.
    """
    checked: list[Model | Checkpoint] = []
    for model in models:
        if isinstance(model, Model):
            likelihood_measure(model)
            checked.append(model)
        else:
            checkpoint = find_model(model)
            check_likelihood(checkpoint)
            checked.append(checkpoint)
    return checked


def run_pairs(
    models: Sequence[Model | Checkpoint],
    pairs: Sequence[PromptPair],
    settings: PairsSettings,
    tracker: Tracker | None = None,
    progress: Progress = silent,
) -> list[PairsResult]:
    """Score pairs in several models, each in an MLflow run if there is a tracker.

    Args:
        models: models from `check_models`.
        pairs: pairs of the file, from `PairsSettings.read`.
        settings: file and other settings.
        tracker: tracker that records the results, if any.
        progress: callback that receives how many prompts have been read.

    Raises:
        PromptError, ModelError, NonfiniteError: as `score_pairs`.
    """
    started = datetime.datetime.now()
    return [
        _recorded(model, pairs, settings, tracker, started, progress)  # one model at a time
        for model in models
    ]


def _recorded(
    model: Model | Checkpoint,
    pairs: Sequence[PromptPair],
    settings: PairsSettings,
    tracker: Tracker | None,
    started: datetime.datetime,
    progress: Progress,
) -> PairsResult:
    """Score pairs in one model and record the result, if there is a tracker."""
    loaded = model if isinstance(model, Model) else _loaded(model, settings)
    result = scored_pairs(
        loaded,
        pairs,
        first=settings.a_column,
        seed=settings.seed,
        truncate=settings.truncate,
        progress=progress,
    )
    if not tracker:
        return result
    run_id = record_pairs(result, pairs, loaded, settings, tracker, started)
    return replace(result, run_id=run_id)


def _loaded(checkpoint: Checkpoint, settings: PairsSettings) -> Model:
    return load_model(checkpoint, device=settings.device, dtype=settings.dtype, head=True)


def scored_pairs(
    model: Model,
    pairs: Sequence[PromptPair],
    *,
    first: str = "prompt_a",
    seed: int = 0,
    truncate: bool = False,
    progress: Progress = silent,
) -> PairsResult:
    """Return the scores of pairs in a loaded model; see `score_pairs`.

    Args:
        model: loaded model with its head.
        pairs: the pairs.
        first: name of the first prompts, for the headline.
        seed: seed of the control pairs.
        truncate: whether to cut prompts at the model's limit.
        progress: callback that receives how many prompts have been read.
    """
    measure = likelihood_measure(model)
    sides = zip(*(pair.prompts for pair in pairs), strict=True)
    a, b = (tokenise(model, side, truncate=truncate) for side in sides)
    tokens = [PairTokens.of(a, b, number) for number in range(len(pairs))]
    size = int(model.checkpoint.config["vocab_size"])
    controls = ControlTokens(model.vocabulary, tokens, size)
    drawn = [
        controls.drawn(each.modified, np.random.default_rng([seed, number]))
        for number, each in enumerate(tokens)
    ]
    usable, notes = _usable(pairs, tokens, drawn, measure)
    quads = [_Quad(pairs[n], tokens[n], tokens[n].replaced(drawn[n] or {})) for n in usable]
    scored = _scored(model, quads, measure, progress)
    notes += _unknown(a, b)
    if measure == "log-likelihood":
        notes += _unpredicted(quads)
    return PairsResult.of(model.name, measure, scored, first=first, notes=notes, seed=seed)


def _unknown(a: TokenBlock, b: TokenBlock) -> list[str]:
    """Return a sentence on words that the tokenizer does not know, which it cannot tell apart."""
    unknown, read = (
        sum(int(values.sum()) for values in sides)
        for sides in ((a.unknown, b.unknown), (a.kept("content"), b.kept("content")))
    )
    if not unknown:
        return []
    return [f"the tokenizer does not know {unknown:,} of {read:,} words or pieces of the prompts"]


def _usable(
    pairs: Sequence[PromptPair],
    tokens: Sequence[PairTokens],
    drawn: Sequence[dict[int, int] | None],
    measure: LikelihoodMeasure,
) -> tuple[list[int], list[str]]:
    """Return the numbers of the pairs that can be scored, and notes that name the others.

    Raises:
        PromptError: no pair can be scored.
    """
    faults: dict[str, list[str]] = {}
    usable = []
    for number, (pair, each, controls) in enumerate(zip(pairs, tokens, drawn, strict=True)):
        if each.equal:
            fault = "both prompts have the same tokens for this model"
        elif measure == "pll-word-l2r" and not each.shares:
            fault = "the prompts share no token"
        elif controls is None:
            fault = "no word of letters differs, or the vocabulary has no control word for it"
        else:
            usable.append(number)
            continue
        faults.setdefault(fault, []).append(pair.id)
    notes = [
        f"{counted(len(ids), 'pair')} left out, as {fault}: {_listed(ids)}"
        for fault, ids in faults.items()
    ]
    if not usable:
        raise PromptError(f"no pair can be scored: {'; '.join(notes)}", remedy="change the pairs")
    return usable, notes


def _listed(ids: Sequence[str]) -> str:
    """Return the first ids of pairs as text."""
    more = len(ids) - _NAMED
    return f"id {', '.join(ids[:_NAMED])}" + (f" and {more:,} more" if more > 0 else "")


def _unpredicted(quads: "Sequence[_Quad]") -> list[str]:
    """Return a note if first tokens differ but have no likelihood, as there is no BOS token."""
    firsts = [(quad.tokens.special[0][0], quad.tokens.shared[0][0]) for quad in quads]
    number = sum(not special and not shared for special, shared in firsts)
    if not number:
        return []
    return [
        "the tokenizer adds no token before a prompt, so the first one has no likelihood; in"
        f" {counted(number, 'pair')} it differs"
    ]


@dataclass(frozen=True, eq=False)
class _Quad:
    """Pair with its tokens, and the ids of its control pair."""

    pair: PromptPair
    tokens: PairTokens
    control: tuple[NDArray[np.integer], NDArray[np.integer]]

    def rows(self) -> Iterator[NDArray[np.integer]]:
        """Yield the ids of both prompts, and of both control prompts."""
        yield from self.tokens.ids
        yield from self.control

    def scored(self, measure: LikelihoodMeasure) -> Iterator[NDArray[np.bool_]]:
        """Yield flags of the four prompts, true at the tokens whose likelihoods are added up."""
        for _ in ("pair", "control"):
            for shared, special in zip(self.tokens.shared, self.tokens.special, strict=True):
                yield ~special if measure == "log-likelihood" else shared & ~special


def _scored(
    model: Model, quads: Sequence[_Quad], measure: LikelihoodMeasure, progress: Progress
) -> list[ScoredPair]:
    """Return the log-likelihoods of pairs and of their control pairs."""
    block = joined_block([ids for quad in quads for ids in quad.rows()], model.vocabulary)
    flags = np.concatenate([each for quad in quads for each in quad.scored(measure)])
    names = [quad.pair.id for quad in quads for _ in range(4)]
    values = token_log_likelihoods(model, block, flags, ids=names, progress=progress)
    sums: Doubles = np.add.reduceat(np.nan_to_num(values), block.starts).reshape(-1, 4)
    controls = [ids for quad in quads for ids in quad.control]
    texts = texts_of(model, joined_block(controls, model.vocabulary))
    return [
        ScoredPair(quad.pair, own[0], own[1], texts[2 * n], texts[2 * n + 1], own[2], own[3])
        for n, (quad, own) in enumerate(zip(quads, sums.tolist(), strict=True))
    ]
