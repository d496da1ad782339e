"""Change of a model's outputs, prompt by prompt, when neurons are silenced."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.batching import Batch, batches, tokenise
from neuroscope.extraction.budget import TokenBudget, usual_budget
from neuroscope.extraction.extract import record
from neuroscope.extraction.models import Model
from neuroscope.extraction.pair_changes import nonfinite, positions_of
from neuroscope.extraction.paired import output_budget
from neuroscope.extraction.pooling import pooling
from neuroscope.extraction.reading import divided
from neuroscope.extraction.recorder import Keep, Recorder
from neuroscope.extraction.silencing import Replacement, check_replacements, resumed, silenced
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site
from neuroscope.stats.moments import Doubles, Moments

if TYPE_CHECKING:
    import torch

Measure = Literal["loss", "representation"]
"""What is compared: `loss` in causal models with their head, `representation` in all others."""

_LOGITS_AT_ONCE = 2**23


class SilencedOutputs:
    """Outputs of a model over the same prompts, as it is and with neurons silenced.

    >>> outputs = SilencedOutputs(model, prompts)
    >>> outputs.change({Site("mlp_act", 3): Replacement.of([57], 0.0)})  # (prompts,)

    The change of a prompt is:

    - `loss`, in a causal model with its language-model head: the increase of the mean negative log
      likelihood of the prompt's tokens, in nats; 0 if none of its tokens is predicted.
    - `representation`, in all other models: the Euclidean norm of the change of the final
      representation, which is the mean over content tokens after the last layer, divided by the
      root mean square of the norms of the prompts' representations less their mean. It has no unit,
      and depends on the other prompts; a single prompt has no spread, so its norm is not divided.

    Layers before the first one that is silenced run once: silence neurons of one layer after those
    of another, not alternately.
    """

    def __init__(self, model: Model, prompts: PromptSet, *, truncate: bool = False):
        """Prepare prompts.

        Args:
            model: model from `load_model`, with its weights in memory.
            prompts: prompts that it reads.
            truncate: whether to cut prompts at the model's limit instead of refusing them.

        Raises:
            ModelError: the model is streamed.
            PromptError: a prompt is too long.
        """
        check_replacements(model, {})
        self.measure: Measure = measure_of(model)
        self._model, self._prompts = model, prompts
        self._block = tokenise(model, prompts.prompts, truncate=truncate)
        self._end = Site("logits" if self.measure == "loss" else "final", model.layer_count - 1)
        self._layer = -1
        self._batches: list[tuple[Batch, torch.Tensor]] = []  # residual streams that enter it
        self._own = np.empty(0)

    def change(self, replacements: Mapping[Site, Replacement]) -> Doubles:
        """Return the change of each prompt, (prompts,), when neurons are silenced.

        Args:
            replacements: site -> neurons and what replaces them, as for `silenced`.

        Raises:
            SiteError: the model does not have a site or neuron.
            NonfiniteError: the model computes NaN or infinity.
            ResourceError: there is not enough memory.
        """
        check_replacements(self._model, replacements)
        first = min(site.layer for site in replacements)
        if first != self._layer:
            self._run_unchanged(first)
        values = np.empty_like(self._own)
        with silenced(self._model, replacements), Recorder(self._model, [self._end]) as recorder:
            for batch, states in self._batches:
                with resumed(self._model, first, states):
                    kept = recorder.run(batch.inputs(self._model), partial(self._keep, batch))
                values[batch.members] = kept[self._end]
        return self._difference(values)

    def _run_unchanged(self, layer: int) -> None:
        """Run the model as it is, and keep the residual streams that enter a layer."""
        model, start = self._model, Site("resid_pre", layer)
        self._batches, values = [], []
        budget = output_budget([model], self._end.component)
        with Recorder(model, [start, self._end]) as recorder:

            def run(batch: Batch) -> dict[Site, Any]:
                return recorder.run(batch.inputs(model), partial(self._keep, batch))

            for batch in batches(model, self._block, token_rule="content", budget=budget):
                for part, kept in divided(batch, run, budget):
                    self._batches.append((part, kept[start]))
                    values.append(kept[self._end])
        members = np.concatenate([batch.members for batch, _ in self._batches])
        self._own = np.concatenate(values)[np.argsort(members)]
        self._layer = layer

    def _keep(self, batch: Batch, site: Site) -> Keep:
        """Return the function that reduces a batch's outputs, or keeps a residual stream."""
        if site != self._end:
            return lambda states: states.clone()
        return partial(self._losses if self.measure == "loss" else self._means, batch)

    def _losses(self, batch: Batch, logits: "torch.Tensor") -> Doubles:
        """Return the mean negative log likelihood of each prompt's tokens, (batch,), in nats."""
        import torch

        rows, actual, owners, _ = positions_of(self._model, batch, logits=True)
        kept = logits[rows.to(logits.device)]
        ids = torch.from_numpy(actual).to(logits.device).unsqueeze(1)
        size = max(1, _LOGITS_AT_ONCE // logits.shape[2])
        parts = (slice(start, start + size) for start in range(0, max(len(kept), 1), size))
        logs = [kept[part].float().log_softmax(dim=1).gather(1, ids[part]) for part in parts]
        losses = -torch.cat(logs).squeeze(1).cpu().numpy()
        self._check_finite(losses, owners)
        local = np.repeat(np.arange(len(batch.members)), rows.sum(dim=1).cpu().numpy())
        sums, counts = (
            np.bincount(local, weights=weights, minlength=len(batch.members))
            for weights in (losses, None)
        )
        means: Doubles = sums / np.maximum(counts, 1)
        return means

    def _means(self, batch: Batch, states: "torch.Tensor") -> Doubles:
        """Return the mean representation of each prompt, (batch, neurons)."""
        means: Doubles = pooling("mean", batch.kept)(states).cpu().numpy().astype(np.float64)
        self._check_finite(means.sum(axis=1), batch.members)
        return means

    def _check_finite(self, values: NDArray[np.floating], owners: NDArray[np.int64]) -> None:
        """Raise NonfiniteError if a value is NaN or infinite."""
        finite = np.isfinite(values)
        if not finite.all():
            raise nonfinite(self._model, self._prompts.ids[owners[int(np.argmin(finite))]])

    def _difference(self, values: Doubles) -> Doubles:
        """Return the change of each prompt, (prompts,)."""
        if self.measure == "loss":
            return values - self._own
        spread = np.sqrt(((self._own - self._own.mean(axis=0)) ** 2).sum(axis=1).mean())
        norms: Doubles = np.linalg.norm(values - self._own, axis=1)
        return norms / spread if spread else norms


def measure_of(model: Model) -> Measure:
    """Return what of a model's outputs is compared."""
    return "loss" if model.has_head and model.architecture.causal else "representation"


def token_moments(
    model: Model,
    prompts: PromptSet,
    units: Mapping[Site, NDArray[np.int64]],
    *,
    truncate: bool = False,
) -> dict[Site, Moments]:
    """Return mean and spread of some neurons over the content tokens of prompts.

    Args:
        model: model from `load_model`.
        prompts: prompts that it reads.
        units: site -> indices of its neurons.
        truncate: whether to cut prompts at the model's limit instead of refusing them.
    """
    rider = _TokenMoments(units)
    block = tokenise(model, prompts.prompts, truncate=truncate)
    for _ in record(
        model,
        block,
        list(units),
        pool=None,
        token_rule="content",
        budget=TokenBudget(usual_budget(str(model.device))),
        riders=[rider],
    ):
        pass
    return rider.moments


class _TokenMoments:
    """Rider that adds up the moments of some neurons over tokens."""

    def __init__(self, units: Mapping[Site, NDArray[np.int64]]):
        self._units = units
        self.moments: dict[Site, Moments] = {}

    def reduce(self, site: Site, batch: Batch) -> Keep:
        """Return the function that keeps the neurons' values at the tokens that count."""
        import torch

        def reduce(values: "torch.Tensor") -> "torch.Tensor":
            units = torch.from_numpy(self._units[site]).to(values.device)
            return values[batch.kept.to(values.device)][:, units].float().cpu()

        return reduce

    def add(self, site: Site, batch: Batch, reduced: "torch.Tensor") -> None:
        """Merge the moments of a batch."""
        own = Moments.of(reduced.numpy())
        self.moments[site] = self.moments[site].merge(own) if site in self.moments else own
