"""Plants changes, neurons and associations, and checks what the studies say of them."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.random_checkpoint import Shape, ensure_checkpoint
from benchmarks.tables import machine, write_section
from benchmarks.validation import (
    association,
    binned_scores,
    equal,
    false_alarms,
    ladders,
    limits,
    neutral_context,
    one_layer,
    one_topic,
    planted_neurons,
    random_groups,
    rogue_dimension,
    weat,
)
from benchmarks.validation.checks import Base
from benchmarks.validation.outcome import Outcome
from benchmarks.validation.subjects import (
    CREATED,
    ENCODER,
    Subject,
    Versions,
    create_versions,
    encoder,
    given_versions,
)
from benchmarks.validation.synthetic import texts_of, write_labelled
from neuroscope.extraction.checkpoints import find_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "validation.md"


class Validation:
    """The experiments, with the models that several of them use."""

    def __init__(self, arguments: argparse.Namespace, folder: Path):
        self._arguments, self._folder = arguments, folder

    @cached_property
    def versions(self) -> Versions:
        """Versions of the causal model: given, or trained here."""
        given = self._arguments.versions
        if given:
            return given_versions(given, self._arguments.texts, self._arguments.topic)
        return create_versions(self._folder / "versions")

    @cached_property
    def causal(self) -> Subject:
        """The causal model."""
        return self.versions.subject(self._folder)

    @cached_property
    def encoder(self) -> Subject:
        """The encoder without a language-model head."""
        return encoder(self._folder, self.versions.texts if self._arguments.versions else ())

    def climb_encoder(self) -> Outcome:
        """Return the ladders of the encoder."""
        return self._ladder(self.encoder)

    def climb_causal(self) -> Outcome:
        """Return the ladders of the causal model."""
        return self._ladder(self.causal)

    def _ladder(self, subject: Subject) -> Outcome:
        """Return the ladders of a model."""
        rungs = ladders.climb(
            subject.base,
            subject.source,
            self._folder / f"ladder-{subject.causal}",
            subject.training,
            causal=subject.causal,
            rate=subject.rate,
        )
        return ladders.outcome(rungs, subject.base.rewording)

    def draw_false_alarms(self) -> Outcome:
        """Return the rates of false alarms."""
        return false_alarms.measure(self._arguments.draws)

    def cover_by_limits(self) -> Outcome:
        """Return how often the limits hold the statistic of a population of texts."""
        versions, samples = self.versions, self._arguments.samples
        texts = versions.population
        candidates = {"same texts": versions.same, "one topic": versions.other}
        rows = limits.cover(versions.base, candidates, texts, samples)
        return limits.outcome(rows, len(texts), samples)

    def equal_weights(self) -> Outcome:
        """Return the checks of models against copies of their files."""
        rows = [
            equal.compare_copy(subject.base, subject.label, subject.source, self._copy(subject))
            for subject in (self.encoder, self.causal)
        ]
        if self._arguments.large:
            rows.append(self._large(self._arguments.large))
        return equal.outcome(rows)

    def _large(self, folder: Path) -> equal.Compared:
        """Compare a model of the shape of Mistral 7B with its copy."""
        shape = Shape(layers=self._arguments.large_layers)
        ensure_checkpoint(folder / "base", shape)
        prompts = write_labelled(self._folder / "large.csv", [("w3 w4", "")] * 20)
        base = Base(str(folder / "base"), prompts)
        label = f"random weights, {shape.layers} layers of Mistral 7B"
        return equal.compare_copy(base, label, folder / "base", folder / "copy")

    def _copy(self, subject: Subject) -> Path:
        """Return where the copy of a model is created."""
        return self._folder / f"copy-{subject.causal}"

    def change_one_layer(self) -> Outcome:
        """Return where the change of each layer is located."""
        rows = []
        for subject in (self.encoder, self.causal):
            layers = range(find_checkpoint(subject.base.model).layer_count)
            folder = self._folder / f"one-layer-{subject.causal}"
            rows += one_layer.locate(subject.base, subject.label, subject.source, folder, layers)
        return one_layer.outcome(rows)

    def train_one_topic(self) -> Outcome:
        """Return what checks say of versions trained further."""
        versions = self.versions
        same, other = (
            one_topic.examine(
                str(versions.base),
                str(candidate),
                versions.prompts,
                versions.topic,
                versions.words,
                self._folder,
            )
            for candidate in (versions.same, versions.other)
        )
        return one_topic.outcome(same, other, versions.topic)

    def plant_neurons(self) -> Outcome:
        """Return what an atlas says of planted neurons, and of shuffled labels."""
        return planted_neurons.measure(self._arguments.atlas_draws)

    def score_bins(self) -> Outcome:
        """Return how far scores from histograms are from those of the values."""
        return binned_scores.measure()

    def plant_associations(self) -> Outcome:
        """Return how often contrasts of planted words are rejected."""
        return association.measure(self._arguments.draws)

    def share_contrasts(self) -> Outcome:
        """Return how close surviving shares are to planted ones."""
        return association.measure_shares(self._arguments.draws)

    def compare_rogue(self) -> Outcome:
        """Return similarities of activations with one neuron far from 0."""
        return rogue_dimension.measure(self._arguments.atlas_draws)

    def test_words(self) -> Outcome:
        """Return how often word embedding association tests find what is planted."""
        return weat.measure(self._arguments.draws)

    def draw_random_groups(self) -> Outcome:
        """Return how often words that mean nothing exceed random groups of words."""
        return random_groups.measure(self._arguments.draws)

    def repeat_context(self) -> Outcome:
        """Return what neutral context does to similarities, in both models."""
        versions = self.versions
        material = (
            neutral_context.synthetic() if versions.label == CREATED else neutral_context.ENGLISH
        )
        return neutral_context.measure(
            [
                neutral_context.encoder_subject(ENCODER, ENCODER),
                neutral_context.causal_subject(
                    versions.label, str(versions.base), material, texts_of(versions.prompts)
                ),
            ]
        )


SECTIONS: dict[str, Callable[[Validation], Outcome]] = {
    "ladder-encoder": Validation.climb_encoder,
    "ladder-causal": Validation.climb_causal,
    "false-alarms": Validation.draw_false_alarms,
    "limits": Validation.cover_by_limits,
    "equal": Validation.equal_weights,
    "one-layer": Validation.change_one_layer,
    "one-topic": Validation.train_one_topic,
    "planted-neurons": Validation.plant_neurons,
    "binned-scores": Validation.score_bins,
    "association": Validation.plant_associations,
    "surviving-share": Validation.share_contrasts,
    "rogue-dimension": Validation.compare_rogue,
    "random-groups": Validation.draw_random_groups,
    "weat": Validation.test_words,
    "neutral-context": Validation.repeat_context,
}
"""Section of docs/validation.md -> its experiment."""


def main() -> None:
    """Run the experiments, print their tables and fail if a property does not hold."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["NEUROSCOPE_HOME"] = str(Path(name) / "home")
        validation = Validation(arguments, Path(name))
        for section in arguments.only:
            outcome = SECTIONS[section](validation)
            content = f"{outcome.text}\n\n{described(validation, section)}"
            print(f"{section}\n\n{content}\n", flush=True)
            if arguments.write:
                write_section(PAGE, section, content)
            failures += [f"{section}: {failure}" for failure in outcome.failures]
    sys.exit("\n".join(failures) or None)


def described(validation: Validation, section: str) -> str:
    """Return a line on the models of a section, and on this machine."""
    subjects = {
        "ladder-encoder": lambda: f"Model: {validation.encoder.label}. ",
        "ladder-causal": lambda: f"Model: {validation.causal.label}. ",
        "limits": lambda: f"Model: {validation.versions.label}. ",
        "one-topic": lambda: f"Model: {validation.versions.label}. ",
    }
    return subjects.get(section, str)() + machine()


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.validation", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument(
        "--versions",
        nargs=3,
        type=Path,
        metavar=("BASE", "SAME", "OTHER"),
        help="folders of a causal model, of a version trained further on similar texts, and of one"
        " trained further on one topic; by default they are trained here",
    )
    parser.add_argument("--texts", type=Path, help="CSV (text, topic), with --versions")
    parser.add_argument("--topic", help="topic of the last version, with --versions")
    parser.add_argument(
        "--draws",
        type=int,
        default=1000,
        help="draws of the false alarms, of associations and of word embedding association tests",
    )
    parser.add_argument(
        "--atlas-draws",
        type=int,
        default=200,
        help="draws of planted neurons and of rogue dimensions",
    )
    parser.add_argument("--samples", type=int, default=200, help="samples of prompts, for limits")
    parser.add_argument(
        "--large", type=Path, help="folder for two checkpoints of 14.5 GB, which are created there"
    )
    parser.add_argument("--large-layers", type=int, default=32, help="layers of these checkpoints")
    parser.add_argument("--threads", type=int, default=1, help="threads of a small model's passes")
    parser.add_argument("--write", action="store_true", help="write into docs/validation.md")
    arguments = parser.parse_args()
    if arguments.versions and not (arguments.texts and arguments.topic):
        parser.error("--versions needs --texts and --topic")
    return arguments


if __name__ == "__main__":
    main()
