"""Forward passes of an extraction: one over each part of the prompts that a sink lacks."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from neuroscope.errors import NonfiniteError, Option, ResourceError
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.extract import record
from neuroscope.extraction.finite import FiniteCheck
from neuroscope.extraction.memory import give_back_memory
from neuroscope.extraction.models import Model
from neuroscope.files import size_text
from neuroscope.progress import Progress
from neuroscope.storage.disk import stored_bytes
from neuroscope.storage.inputs import PartInputs, read_inputs
from neuroscope.storage.manifest import Manifest
from neuroscope.studies.store.sinks import Sink
from neuroscope.studies.store.spec import ExtractionSpec


def run_passes(
    model: Model,
    spec: ExtractionSpec,
    folder: Path,
    manifest: Manifest,
    sinks: Sequence[Sink],
    *,
    allow_nonfinite: bool,
    progress: Progress,
) -> int:
    """Compute the parts that any sink lacks, and give each part to the sinks that lack it.

    Returns:
        Number of prompts that were run through the model.

    Raises:
        NonfiniteError: a value is not finite, and `allow_nonfinite` is false.
        ResourceError: there is not enough memory or disk space.
        StoreError: a file cannot be read or written; the other parts are kept.
    """
    numbers = sorted(set[int]().union(*(sink.missing for sink in sinks)))
    computed = sum(manifest.parts[number] for number in numbers)
    done, before = manifest.prompts - computed, stored_bytes(folder)

    def report(task: str, done_in_part: int, prompts_in_part: int) -> None:
        size = before + sum(sink.grown for sink in sinks)
        progress(f"{task}, {size_text(size)} written", done + done_in_part, manifest.prompts)

    for number in numbers:
        give_back_memory()  # of the part before, or of what preceded the passes
        inputs = read_inputs(folder, manifest, number, model.vocabulary)
        lacking = [sink for sink in sinks if number in sink.missing]
        budget = _budget(spec, manifest, model)
        _run_pass(model, spec, inputs, lacking, budget, allow_nonfinite, report)
        done += len(inputs.ids)
    give_back_memory()
    return computed


def _run_pass(
    model: Model,
    spec: ExtractionSpec,
    inputs: PartInputs,
    sinks: Sequence[Sink],
    budget: TokenBudget,
    allow_nonfinite: bool,
    progress: Progress,
) -> None:
    """Run one pass over the prompts of a part, for the sinks that lack it."""
    parts = [sink.begin(inputs) for sink in sinks]
    check = FiniteCheck(model, inputs.ids, allow=allow_nonfinite)
    recorded = record(
        model,
        inputs.block,
        spec.sites,
        pool=spec.pool if any(sink.takes_values for sink in sinks) else None,
        token_rule=spec.token_rule,
        budget=budget,
        check=check,
        riders=[rider for part in parts for rider in part.riders],
        shuffle=spec.composition.shuffle if spec.composition else None,
        progress=progress,
    )
    with closing(recorded):  # if the disk fails, no hook remains in the model
        for site, values in recorded:
            for part in parts:
                part.put(site, values, check.counts[site])
    for part in parts:
        part.finish()


def check_nonfinite(rows: Mapping[str, int], folder: Path, *, allow: bool) -> None:
    """Raise NonfiniteError if stored values contain NaN or infinity, unless they are allowed.

    Args:
        rows: site -> number of rows with such values.
        folder: folder of the activations.
        allow: whether such values are allowed.
    """
    if rows and not allow:
        sites = ", ".join(f"{site} ({count} rows)" for site, count in rows.items())
        raise NonfiniteError(
            f"{folder} contains NaN or infinity at {sites}",
            options=[
                Option("allow_nonfinite", True, "accept such values"),
                Option("dtype", "float32", "extract in a format with a larger range"),
            ],
        )


class _ExactBudget(TokenBudget):
    """Budget of a composition, which a division of its batches would change."""

    def __init__(self, tokens: int, model: Model):
        super().__init__(tokens)
        self._model = model

    def exceeded(self, tokens: int) -> None:
        raise ResourceError(
            f"not enough memory on {self._model.device} for '{self._model.name}' in batches of"
            f" {self()} tokens, which the composition fixes",
            remedy="free some memory, or choose a composition with smaller batches",
        )


def _budget(spec: ExtractionSpec, manifest: Manifest, model: Model) -> TokenBudget:
    """Return the budget of one part, regardless of reductions in the parts before it."""
    if spec.composition:
        return _ExactBudget(spec.composition.batch_tokens, model)
    return TokenBudget(manifest.latest.batch_tokens)
