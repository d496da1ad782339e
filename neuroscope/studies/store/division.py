"""Estimates of the size of an extraction and of the number of prompts per part."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.memory import free_memory
from neuroscope.extraction.models import Model
from neuroscope.storage.disk import estimated_bytes
from neuroscope.studies.store.spec import ExtractionSpec

_SAMPLE = 1000
"""Number of prompts from which the number of tokens per character is estimated."""
_TOKEN_BYTES = 256
"""Bytes of memory per token while prompts are tokenised and written (minilm: 223 measured)."""
_STATE_BYTES = 12
"""Bytes of memory per value of the residual stream between two layers of a streamed model: the
layer's input, its output and one intermediate result, 4 bytes each."""
_COPY_BYTES = 12
"""Bytes of memory per value of a streamed site: as computed, in the prompts' order, and while it is
written, 4 bytes each."""


@dataclass(frozen=True)
class PartLimits:
    """Limits on the size of a part: its memory, and the work lost if the process is killed."""

    bytes: float = 128e6
    """Bytes of values and tokens per part: small compared with a model, large compared with the
    4 kB of metadata per site and file."""
    operations: Mapping[str, float] = field(
        default_factory=lambda: {"cpu": 3e13, "cuda": 3e15, "mps": 3e14}
    )
    """Floating-point operations per part, by type of device: a kill loses the part in progress.
    Two CPU cores take three minutes (0.16 TFLOP/s in float32, measured with minilm); a GPU is
    assumed to be 100 times as fast (CUDA), or 10 times (Apple)."""
    streamed_parts: float = 10
    """Factor on `operations` for a streamed model, which reads all weights again for each part."""
    full_batches: int = 4
    """Number of batches that a part should fill, so that few batches are nearly empty."""
    full_bytes: float = 512e6
    """Limit on `bytes` where `full_batches` raises it."""
    uneven: float = 1.5
    """Limit on the tokens of a part, as a multiple of those of as many average prompts; where long
    prompts follow each other, a part contains fewer prompts."""


@dataclass(frozen=True)
class Estimate:
    """Size of an extraction, estimated from its first prompts.

    >>> estimate = Estimate.of(spec, model, values=True, limits=PartLimits())
    >>> estimate.prompts_per_part(batch_tokens=2048)
    """

    spec: ExtractionSpec
    model: Model
    tokens: int
    """Number of tokens of all prompts together."""
    longest: int
    """Number of tokens of the longest prompt."""
    values: bool
    """Whether the values are stored, or only statistics of them."""
    limits: PartLimits

    @classmethod
    def of(
        cls, spec: ExtractionSpec, model: Model, *, values: bool, limits: PartLimits
    ) -> "Estimate":
        """Estimate an extraction from its first 1,000 prompts."""
        sample = list(itertools.islice(spec.prompts, _SAMPLE))
        block = tokenise(model, sample, truncate=True)
        tokens_per_character = len(block.ids) / sum(len(prompt.text) for prompt in sample)
        tokens = math.ceil(spec.prompts.characters * tokens_per_character)
        return cls(spec, model, tokens, int(block.lengths.max()), values, limits)

    @property
    def tokens_per_prompt(self) -> float:
        """Average number of tokens per prompt."""
        return self.tokens / len(self.spec.prompts)

    @property
    def rows_per_prompt(self) -> float:
        """Average number of stored rows per prompt and site."""
        if not self.values:
            return 0
        return 1 if self.spec.pool != "none" else self.tokens_per_prompt

    def bytes(self, prompts_per_part: int) -> int:
        """Return the estimated size of prompts, tokens and values on disk, in bytes."""
        prompts = self.spec.prompts
        return estimated_bytes(
            rows=math.ceil(len(prompts) * self.rows_per_prompt),
            neurons=self.spec.neurons if self.values else 0,
            sites=len(self.spec.sites) if self.values else 0,
            tokens=self.tokens,
            characters=prompts.characters,
            parts=-(-len(prompts) // prompts_per_part),
        )

    def prompts_per_part(self, batch_tokens: int) -> int:
        """Return how many prompts a part may contain.

        Args:
            batch_tokens: number of tokens per batch.
        """
        limit = self._streamed_limit() if self.model.streamed else self._limit(batch_tokens)
        return max(1, min(len(self.spec.prompts), int(limit)))

    def tokens_per_part(self, prompts_per_part: int) -> int:
        """Return how many tokens a part may contain where long prompts follow each other."""
        return math.ceil(self.limits.uneven * prompts_per_part * self.tokens_per_prompt)

    def _limit(self, batch_tokens: int) -> float:
        """Return the number of prompts that the limits on memory and lost work allow.

        A number too small to fill `full_batches` batches is raised to do so, as far as `full_bytes`
        allows.
        """
        prompt_bytes = self.rows_per_prompt * self.spec.neurons * 4 + self._text_bytes
        allowed = min(self.limits.bytes / prompt_bytes, self._prompts_of_operations())
        filling = self.limits.full_batches * batch_tokens / self.tokens_per_prompt
        return max(allowed, min(filling, self.limits.full_bytes / prompt_bytes))

    def _streamed_limit(self) -> float:
        """Return the number of prompts that memory and lost work allow for a streamed model."""
        work = self.limits.streamed_parts * self._prompts_of_operations()
        return min(self._prompts_in_memory() / self.limits.uneven, work)

    @property
    def _text_bytes(self) -> float:
        return self.tokens_per_prompt * _TOKEN_BYTES

    def _prompts_of_operations(self) -> float:
        """Return the number of prompts that take `operations`, two per token and weight."""
        model = self.model
        layers = (model.layer(index).parameters() for index in range(model.layer_count))
        weights = sum(weight.numel() for weight in itertools.chain(*layers))
        operations = self.limits.operations[model.device.type]
        return operations / (2 * weights * self.tokens_per_prompt)

    def _prompts_in_memory(self) -> float:
        """Return the number of prompts that fit in half the free memory between streamed layers.

        Statistics are assumed to need as much memory as one row per prompt.
        """
        width = self.spec.checkpoint.neurons("resid_post")
        masks = self.longest * (4 if self.spec.attention == "eager" else 1)
        states = self.tokens_per_prompt * (width * _STATE_BYTES + masks)
        values = (self.rows_per_prompt or 1) * self._widest_layer() * _COPY_BYTES
        values += self._text_bytes
        device = str(self.model.device)
        if device == "cpu":
            return free_memory() / 2 / (states + values)
        # at token level, the values of each batch move to main memory at once
        on_device = states if self.values and self.spec.pool == "none" else states + values
        return min(free_memory(device) / 2 / on_device, free_memory() / 2 / values)

    def _widest_layer(self) -> int:
        """Return the largest number of neurons in a layer; one layer is in memory at a time."""
        layers: Counter[int] = Counter()
        for site in self.spec.sites:
            layers[site.layer] += self.spec.checkpoint.neurons(site.component)
        return max(layers.values())
