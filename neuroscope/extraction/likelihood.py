"""Log-likelihoods of tokens in causal and masked language models, from token ids."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import HeadlessError, ModelError, Option, PromptError
from neuroscope.extraction.batching import encodings_of
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.head import check_head
from neuroscope.extraction.log_probabilities import Asked, log_probabilities, mask_id
from neuroscope.extraction.models import Model
from neuroscope.extraction.statements import Filled, Gap
from neuroscope.extraction.tokenizers import load_tokenizer
from neuroscope.progress import Progress, silent
from neuroscope.stats.moments import Doubles
from neuroscope.tokens import Flags, TokenBlock

LikelihoodMeasure = Literal["log-likelihood", "pll-word-l2r"]
"""Log-likelihood of a token: in causal models given the tokens before it, and in masked ones given
all tokens but itself and the later ones of its word."""

_COPIED_TOKENS = 2**22
"""Tokens of masked copies that are in memory at a time."""


def likelihood_measure(model: Model) -> LikelihoodMeasure:
    """Return how a model's log-likelihoods are computed.

    Raises:
        HeadlessError: the model was loaded without its language-model head.
        ModelError: a masked language model has no mask token.
    """
    if not model.has_head:
        raise HeadlessError(
            f"model '{model.name}' was loaded without its language-model head",
            options=[Option("head", True, "load it with its head")],
        )
    if model.architecture.causal:
        return "log-likelihood"
    mask_id(model.tokenizer, model.checkpoint)
    return "pll-word-l2r"


def check_likelihood(checkpoint: Checkpoint) -> None:
    """Check, without loading a model, that its log-likelihoods can be computed.

    Raises:
        HeadlessError: it has no language-model head.
        ModelError: its files cannot be read, or a masked language model has no mask token.
    """
    check_head(checkpoint)
    if not checkpoint.architecture.causal:
        mask_id(load_tokenizer(checkpoint), checkpoint)


def token_log_likelihoods(
    model: Model,
    block: TokenBlock,
    scored: Flags | None = None,
    *,
    ids: Sequence[str] = (),
    progress: Progress = silent,
) -> Doubles:
    """Return the log-likelihood of each token of prompts in nats, (tokens,).

    In a causal model it is log P(token | tokens before it). The first token of a prompt is not
    predicted; if the tokenizer adds a BOS token, this is the first.

    In a masked language model it is that of PLL-word-l2r (Kauf & Ivanova 2023, arXiv:2305.10588):
    the token and all later tokens of its word are masked, so that the pieces of a split word do not
    give each other away. Each token needs a pass over its prompt.

    >>> block = tokenise(model, prompts)
    >>> np.add.reduceat(np.nan_to_num(token_log_likelihoods(model, block)), block.starts)

    Args:
        model: model from `load_model`, with its head.
        block: tokens of the prompts, from `tokenise` or from ids; they are not tokenised again.
        scored: (tokens,) flags, true at the tokens that are scored; by default all but special
            tokens.
        ids: ids of the prompts, for messages; by default their numbers.
        progress: callback that receives how many prompts, or masked copies of them, were read.

    Returns:
        Log-likelihoods, (tokens,); NaN at tokens that are not scored or not predicted.

    Raises:
        HeadlessError: the model was loaded without its head.
        ModelError: a masked language model has no mask token, or the forward pass fails.
        NonfiniteError: the model computes NaN or infinity.
        ResourceError: there is not enough memory.
    """
    masked = likelihood_measure(model) == "pll-word-l2r"
    names = list(ids) or [str(number) for number in range(len(block))]
    scored = block.kept("content") if scored is None else scored
    if masked:
        return _pseudo(model, block, np.flatnonzero(scored), names, progress)
    owners = _owners(block)
    tokens = np.flatnonzero(scored & (block.positions > 0))
    asked = Asked(owners[tokens], block.positions[tokens] - 1, block.ids[tokens])
    values = np.full(len(block.ids), np.nan)
    values[tokens] = log_probabilities(model, block, asked, names, progress)
    return values


def _pseudo(
    model: Model,
    block: TokenBlock,
    tokens: NDArray[np.int64],
    names: Sequence[str],
    progress: Progress,
) -> Doubles:
    """Return the pseudo-log-likelihoods of some tokens of a block, NaN at the others."""
    mask, owners = mask_id(model.tokenizer, model.checkpoint), _owners(block)
    values, done = np.full(len(block.ids), np.nan), 0
    for part in _parts(tokens, block.lengths[owners[tokens]]):
        asked = Asked(np.arange(len(part)), block.positions[part], block.ids[part])
        own = [names[owner] for owner in owners[part].tolist()]
        report = _continued(progress, done, len(tokens))
        copies = _masked_copies(block, part, owners[part], mask)
        values[part] = log_probabilities(model, copies, asked, own, report)
        done += len(part)
    return values


def _owners(block: TokenBlock) -> NDArray[np.int64]:
    """Return the number of each token's prompt, (tokens,)."""
    return np.repeat(np.arange(len(block)), block.lengths)


def _parts(tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the tokens in parts whose masked copies fit into memory.

    Args:
        tokens: (scored tokens,) positions in the block.
        lengths: (scored tokens,) length of the prompt of each.
    """
    numbers = np.cumsum(lengths) // _COPIED_TOKENS
    for part in np.split(tokens, np.flatnonzero(np.diff(numbers)) + 1):
        if len(part):
            yield part


def _continued(progress: Progress, done: int, total: int) -> Progress:
    """Return a progress callback for a part of the work."""
    return lambda task, part_done, _: progress(task, done + part_done, total)


def _masked_copies(
    block: TokenBlock, tokens: NDArray[np.int64], owners: NDArray[np.int64], mask: int
) -> TokenBlock:
    """Return a copy of its prompt per token, with the token and the rest of its word masked.

    Args:
        block: tokens of the prompts.
        tokens: (copies,) positions in the block.
        owners: (copies,) number of the prompt of each.
        mask: id of the mask token.
    """
    copies = block.take(owners)
    word = np.cumsum(block.word_starts)  # number of each token's word
    word_ends = np.searchsorted(word, word[tokens], side="right")
    first = copies.starts + tokens - block.starts[owners]
    lengths = word_ends - tokens
    masked = np.repeat(first + lengths - np.cumsum(lengths), lengths) + np.arange(lengths.sum())
    ids = copies.ids.copy()
    ids[masked] = mask
    return TokenBlock(ids, copies.ends, block.vocabulary)


def prediction_associations(
    model: Model, statements: Sequence[str], roles: Sequence[str], words: Sequence[str]
) -> Doubles:
    """Return how much a role raises the probability of a word, (statements, roles, words), in nats.

    The association is log(p_target / p_prior) (Kurita et al. 2019, arXiv:1906.07337): p_target is
    the probability of the word in the gap of the group, with the role in place; p_prior is the same
    with every token of the role masked too.

    >>> prediction_associations(model, ["The {role} is a {group}."], ["nurse"], ["man", "woman"])

    Args:
        model: masked language model from `load_model`, with its head.
        statements: sentences, each with one {role} and one {group}.
        roles: words or phrases of any number of tokens.
        words: words that fill the gap of the group.

    Returns:
        Associations; NaN for a word that is not a single token at its place in a statement.

    Raises:
        HeadlessError: the model was loaded without its head.
        ModelError: the model is causal, or has no mask token.
        PromptError: a statement does not have both gaps once, or is too long.
        NonfiniteError: the model computes NaN or infinity.
        ResourceError: there is not enough memory.
    """
    if likelihood_measure(model) != "pll-word-l2r":
        raise ModelError(
            f"model '{model.name}' is causal: it does not fill gaps in sentences",
            remedy="use a masked language model, such as bert-base-uncased",
        )
    filled = [
        Filled.of(text, role, word) for text in statements for role in roles for word in words
    ]
    gaps = dict(_gaps(model, filled))
    values = np.full(len(filled), np.nan)
    if gaps:
        values[list(gaps)] = _associations(model, list(gaps.values()))
    return values.reshape(len(statements), len(roles), len(words))


def _gaps(model: Model, filled: Sequence[Filled]) -> Iterator[tuple[int, Gap]]:
    """Yield the number and the gap of each filled statement whose word is a single token."""
    limit = model.checkpoint.token_limit
    encodings = encodings_of(model, [each.text for each in filled], offsets=True)
    for number, (statement, encoding) in enumerate(zip(filled, encodings, strict=True)):
        if len(encoding) > limit:
            raise PromptError(
                f"statement '{statement.text}' has {len(encoding)} tokens, but '{model.name}' reads"
                f" at most {limit}",
                remedy="shorten it",
            )
        if gap := statement.gap(encoding, model.vocabulary.unknown):
            yield number, gap


def _associations(model: Model, gaps: Sequence[Gap]) -> Doubles:
    """Return log(p_target / p_prior) of each gap; equal contexts are read once."""
    mask = mask_id(model.tokenizer, model.checkpoint)
    numbers: dict[tuple[int, ...], int] = {}
    where = np.array(
        [[numbers.setdefault(ids, len(numbers)) for ids in gap.contexts(mask)] for gap in gaps]
    ).ravel()  # target and prior in turn
    block = TokenBlock(
        np.concatenate([np.array(ids, dtype=np.int32) for ids in numbers]),
        np.cumsum([len(ids) for ids in numbers], dtype=np.int64),
        model.vocabulary,
    )
    positions = np.repeat([gap.position for gap in gaps], 2)
    ids = np.repeat([gap.ids[gap.position] for gap in gaps], 2)
    order = np.argsort(where, kind="stable")
    asked = Asked(where[order], positions[order], ids[order])
    logs = np.empty(len(where))
    logs[order] = log_probabilities(model, block, asked, list(map(str, numbers.values())))
    return logs[::2] - logs[1::2]
