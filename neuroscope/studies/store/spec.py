"""Specification of an extraction: everything that determines the values."""

from dataclasses import dataclass

from neuroscope.errors import ModelError, Option
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.models import Model
from neuroscope.options import Attention, Dtype, Pool, TokenRule, check_choice, choices
from neuroscope.prompts import Prompts
from neuroscope.sites import Site
from neuroscope.storage.keys import ActivationKey, Composition


@dataclass(frozen=True, kw_only=True)
class ExtractionSpec:
    """Specification of an extraction, which determines the key of the stored activations.

    >>> spec = ExtractionSpec(checkpoint=model.checkpoint, prompts=prompts, sites=sites)
    >>> store_activations(spec, store_folder(spec.key), lambda: model)

    Raises:
        NeuroscopeError: an option has an unknown value.
    """

    checkpoint: Checkpoint
    prompts: Prompts
    sites: tuple[Site, ...]
    pool: Pool = "mean"
    token_rule: TokenRule = "content"
    truncate: bool = False
    dtype: Dtype = "float32"
    attention: Attention = "sdpa"
    composition: Composition | None = None
    """Grouping of prompts into batches, if a study varies it; None leaves it open."""

    def __post_init__(self) -> None:
        check_choice("pool", self.pool, choices(Pool))
        check_choice("token_rule", self.token_rule, choices(TokenRule))
        check_choice("dtype", self.dtype, choices(Dtype))
        check_choice("attention", self.attention, choices(Attention))

    @property
    def key(self) -> ActivationKey:
        """Key of the stored activations."""
        return ActivationKey(
            fingerprint=self.checkpoint.fingerprint,
            prompts_digest=self.prompts.digest,
            sites=self.sites,
            pool=self.pool,
            token_rule=self.token_rule,
            truncated=self.truncate,
            dtype=self.dtype,
            attention=self.attention,
            composition=self.composition,
        )

    @property
    def neurons(self) -> int:
        """Number of neurons over all sites."""
        return sum(self.checkpoint.neurons(site.component) for site in self.sites)

    def check_model(self, model: Model) -> None:
        """Raise ModelError if a model pads prompts on another side than the composition."""
        side = self.composition.padding_side if self.composition else model.padding_side
        if model.padding_side != side:
            raise ModelError(
                f"model '{model.name}' pads prompts on the {model.padding_side}, but the"
                f" composition requires the {side}",
                options=[Option("padding_side", side, "load the model with that side")],
            )
