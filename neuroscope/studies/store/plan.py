"""What is to be extracted, how large that will be, and how it is divided into parts and batches."""

import itertools
import logging
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import TokenBudget, usual_budget
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.extract import provenance_of
from neuroscope.extraction.memory import free_memory
from neuroscope.extraction.models import Model
from neuroscope.files import size_text
from neuroscope.options import Pool, TokenRule, check_choice, choices
from neuroscope.progress import Progress
from neuroscope.prompts import Prompts
from neuroscope.sites import Site
from neuroscope.storage.disk import check_room, estimated_bytes, stored_bytes
from neuroscope.storage.manifest import ActivationKey, Manifest
from neuroscope.tokens import TokenBlock

_PART_BYTES = 128e6  # of a part's values and tokens: what memory holds at a time
_PART_WORK = {"cpu": 3e13, "cuda": 3e15, "mps": 3e14}  # operations: what a kill may cost, minutes
_STREAMED_WORK = 10  # times that: a streamed model is read anew for each part
_FULL_BATCHES = 4  # a part should fill so many, or the device would wait for prompts
_FULL_BYTES = 512e6  # unless its values and tokens would then be larger
_UNEVEN = 1.5  # times the tokens of as many prompts on average: a part that has more is divided
_TOKEN_BYTES = 256  # of a token while a part's texts become tokens and these a table
_STATES = 12  # bytes for each number of the residual stream: what goes into a layer and out of it
_COPIES = 12  # bytes for each value of a streamed site: as it comes, put in order, being written
_SAMPLE = 1000  # prompts that tell how many tokens a text becomes
_LARGE = 100e6  # bytes: a job of which it is said beforehand how large it will be

_log = logging.getLogger("neuroscope")


@dataclass(frozen=True)
class ExtractionSpec:
    """What is to be extracted: everything that decides the values, and so the key."""

    checkpoint: Checkpoint
    prompts: Prompts
    sites: tuple[Site, ...]
    pool: Pool = "mean"
    token_rule: TokenRule = "content"
    truncate: bool = False
    dtype: str = "float32"
    attention: str = "sdpa"

    def __post_init__(self) -> None:
        check_choice("pool", self.pool, choices(Pool))
        check_choice("token_rule", self.token_rule, choices(TokenRule))

    @property
    def key(self) -> ActivationKey:
        return ActivationKey(
            fingerprint=self.checkpoint.fingerprint,
            prompts_digest=self.prompts.digest,
            sites=self.sites,
            pool=self.pool,
            token_rule=self.token_rule,
            truncated=self.truncate,
            dtype=self.dtype,
            attention=self.attention,
        )

    @property
    def neurons(self) -> int:
        """Of all sites together."""
        return sum(self.checkpoint.neurons(site.component) for site in self.sites)


@dataclass(frozen=True)
class Estimate:
    """How large an extraction will be, from its first prompts.

    >>> Estimate.of(wanted, model).prompts_per_part(batch_tokens=2048)
    """

    wanted: ExtractionSpec
    model: Model
    tokens: int  # of all prompts together
    longest: int  # tokens of the longest prompt

    @classmethod
    def of(cls, wanted: ExtractionSpec, model: Model) -> "Estimate":
        sample = _sample(wanted, model, _SAMPLE)
        texts = itertools.islice(wanted.prompts, _SAMPLE)
        share = len(sample.ids) / sum(len(prompt.text) for prompt in texts)
        tokens = math.ceil(wanted.prompts.characters * share)
        return cls(wanted, model, tokens, int(sample.lengths.max()))

    @property
    def tokens_per_prompt(self) -> float:
        return self.tokens / len(self.wanted.prompts)

    @property
    def rows_per_prompt(self) -> float:
        """Of a site."""
        return 1 if self.wanted.pool != "none" else self.tokens_per_prompt

    def bytes(self, prompts_per_part: int) -> int:
        """On the disk."""
        prompts = self.wanted.prompts
        return estimated_bytes(
            rows=math.ceil(len(prompts) * self.rows_per_prompt),
            neurons=self.wanted.neurons,
            sites=len(self.wanted.sites),
            tokens=self.tokens,
            characters=prompts.characters,
            parts=-(-len(prompts) // prompts_per_part),
        )

    def prompts_per_part(self, batch_tokens: int) -> int:
        """As many as memory should hold at a time, and as a kill may cost the work of."""
        if self.model.streamed:
            work = _STREAMED_WORK * self._prompts_of_minutes()
            found = min(self._held_at_once() / _UNEVEN, work)
        else:
            size = self.rows_per_prompt * self.wanted.neurons * 4 + self._text_bytes
            fill = _FULL_BATCHES * batch_tokens / self.tokens_per_prompt
            found = max(
                min(_PART_BYTES / size, self._prompts_of_minutes()), min(fill, _FULL_BYTES / size)
            )
        return max(1, min(len(self.wanted.prompts), int(found)))

    def tokens_per_part(self, prompts_per_part: int) -> int:
        """As many as its memory and work allow where long prompts stand together."""
        return math.ceil(_UNEVEN * prompts_per_part * self.tokens_per_prompt)

    @property
    def _text_bytes(self) -> float:
        return self.tokens_per_prompt * _TOKEN_BYTES

    def _prompts_of_minutes(self) -> float:
        """How many take some minutes: two operations for each token and weight of the layers."""
        model = self.model
        layers = (model.layer(index).parameters() for index in range(model.layer_count))
        weights = sum(weight.numel() for weight in itertools.chain(*layers))
        return _PART_WORK[model.device.type] / (2 * weights * self.tokens_per_prompt)

    def _held_at_once(self) -> float:
        """As many as half of the free memory can hold between two layers of a streamed model."""
        width = self.wanted.checkpoint.neurons("resid_post")
        masks = self.longest * (4 if self.wanted.attention == "eager" else 1)
        states = self.tokens_per_prompt * (width * _STATES + masks)
        values = self.rows_per_prompt * self._widest_layer() * _COPIES + self._text_bytes
        device = str(self.model.device)
        if device == "cpu":
            return free_memory() / 2 / (states + values)
        on_device = states if self.wanted.pool == "none" else states + values
        return min(free_memory(device) / 2 / on_device, free_memory() / 2 / values)

    def _widest_layer(self) -> int:
        """Neurons of all sites of the layer that has most: a streamed model keeps one at a time."""
        layers: Counter[int] = Counter()
        for site in self.wanted.sites:
            layers[site.layer] += self.wanted.checkpoint.neurons(site.component)
        return max(layers.values())


def plan(
    wanted: ExtractionSpec,
    folder: Path,
    model: Model,
    budget: int | None,
    begun: Manifest | None,
    progress: Progress,
) -> Manifest:
    """What the folder is to hold, once it is known that the disk has the room.

    Args:
        budget: tokens per batch. If not given, what the folder was begun with on such a device;
            else what is usual for the device.
        begun: what the folder holds of this already.

    Raises:
        ResourceError: the disk has not the room.
        NeuroscopeError: the budget is less than one token.
    """
    if budget is None and begun and begun.latest.device == str(model.device):
        budget = begun.latest.batch_tokens
    batch_tokens = TokenBudget(usual_budget(str(model.device)) if budget is None else budget)()
    estimate = Estimate.of(wanted, model)
    prompts_per_part = estimate.prompts_per_part(batch_tokens)
    _check_room(folder, estimate.bytes(prompts_per_part))
    provenance = provenance_of(
        model,
        wanted.prompts.digest,
        pool=wanted.pool,
        token_rule=wanted.token_rule,
        truncate=wanted.truncate,
        batch_tokens=batch_tokens,
    )
    tokens_per_part = estimate.tokens_per_part(prompts_per_part)
    return Manifest(wanted.key, len(wanted.prompts), prompts_per_part, tokens_per_part, provenance)


def _check_room(folder: Path, size: int) -> None:
    """Tells how much of a large job is still to be written, and refuses what the disk cannot hold.

    Raises:
        ResourceError: it has not the room.
    """
    left = size - stored_bytes(folder)
    check_room(folder, left)
    if left > _LARGE:
        _log.info("about %s will be written to %s", size_text(left), folder)


def _sample(wanted: ExtractionSpec, model: Model, count: int) -> TokenBlock:
    """The first prompts as the model reads them."""
    return tokenise(model, list(itertools.islice(wanted.prompts, count)), truncate=True)
