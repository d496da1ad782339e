"""Check by ablation that neurons are used for a topic, not only correlated with it."""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from neuroscope.errors import ExperimentError, Option
from neuroscope.extraction.models import Model
from neuroscope.extraction.silencing import check_replacements
from neuroscope.options import check_choice, choices
from neuroscope.progress import Progress, silent
from neuroscope.storage.atlas_file import Atlas
from neuroscope.studies.atlas.ablation_result import AblationResult, AblationRow, Mode
from neuroscope.studies.atlas.controls import FEWEST_CONTROLS, neurons_in
from neuroscope.studies.atlas.described import described_checkpoint, load_described
from neuroscope.studies.atlas.tables import inseparable
from neuroscope.studies.atlas.topic_ablation import TopicAblation
from neuroscope.studies.atlas.topic_prompts import FEWEST_PROMPTS, AtlasPrompts

Sets = dict[str, list[Sequence[str]]]
"""Topic -> sets of neurons that are tested on it."""


def ablate(
    atlas: Atlas,
    model: Model | str = "",
    *,
    neuron: str = "",
    topic: str = "",
    top: int = 10,
    mode: Mode = "mean",
    prompts: int = 100,
    controls: int = 39,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> AblationResult:
    """Test by silencing neurons whether a model uses them for a topic.

    The effect of a neuron is the mean change of the model's outputs (see `SilencedOutputs`) on
    held-out prompts on the topic, less that on as many prompts off it, less the mean of the same
    over control neurons. The controls are neurons of the same layer with a similar share of active
    prompts and |mean| that are not selective for the topic. A verdict is:

    - `general` if silencing changes the outputs more than 95 % of the controls do on the prompts of
      every topic, and off the topic at least half as much as on it. The neuron matters, but not for
      this topic in particular.
    - `confirmed` if p < .05 and the 95 % interval of the effect is above 0.
    - `not confirmed` otherwise.

    The effect is a lower bound: later components compensate in part for one that is removed
    (self-repair, arXiv 2307.15771). A neuron that is not confirmed may therefore still be used.
    p-values are not corrected for the number of neurons.

    >>> with ns.open_atlas("minilm") as atlas:
    ...     ablate(atlas, topic="Sports").to_frame()

    Args:
        atlas: open atlas.
        model: loaded model, a causal one with its head, or its name; by default the name in the
            atlas.
        neuron: name of a neuron. Without a topic, it is tested on each topic for which it is
            selective, or on its strongest topic if there is none.
        topic: name of a topic. Without a neuron, its strongest neurons are tested one by one, and
            all together.
        top: number of these neurons.
        mode: what replaces a neuron: its mean over the atlas's prompts (`mean`), 0 (`zero`), or its
            mean only at tokens at which its value is within 2.5 standard deviations of its mean
            over the tokens of the topic's prompts (`range`, arXiv 2502.06809).
        prompts: largest number of prompts on the topic, and of those off it.
        controls: largest number of sets of control neurons, at least 20.
        seed: seed of the drawn prompts, the sets of controls and the bootstrap.
        device: device on which a model that is named is loaded.
        progress: callback that receives how many sets of neurons have been silenced.

    Raises:
        ExperimentError: the neuron or topic is unknown, the topic has too few prompts or no
            selective neuron, a layer has too few neurons, or an argument is out of range.
        ModelError: the model is not that of the atlas, or is streamed.
        NonfiniteError: the model computes NaN or infinity.
    """
    _check_arguments(neuron, topic, mode, prompts, controls)
    settings = atlas.model()
    _check_means(settings, mode)
    sets = _sets_of_neuron(atlas, neuron, topic) if neuron else _sets_of_topic(atlas, topic, top)
    checkpoint = described_checkpoint(settings, model)
    source = AtlasPrompts.of(atlas)
    ablations = [
        _ablation(atlas, source, name, tested, prompts, controls, seed)
        for name, tested in sets.items()
    ]
    loaded = (
        model
        if isinstance(model, Model)
        else load_described(settings, checkpoint, device, head=True)
    )
    check_replacements(loaded, {})
    advance = _counting(progress, sum(len(ablation.sets()) for ablation in ablations))
    truncate = bool(json.loads(settings["experiment"]).get("truncate", False))
    rows: list[AblationRow] = []
    for ablation in ablations:
        rows += ablation.run(loaded, mode, truncate=truncate, advance=advance)
    return AblationResult(tuple(rows), _inseparable(atlas, sets))


def _inseparable(atlas: Atlas, topics: Iterable[str]) -> tuple[str, ...]:
    """Return a sentence on each topic that is not separable in the atlas's prompts."""
    reasons = atlas.topics().set_index("name")["reason"]
    clauses = (inseparable(topic, reasons[topic]) for topic in topics if reasons[topic])
    return tuple(f"{clause[0].upper()}{clause[1:]}." for clause in clauses)


def _check_arguments(neuron: str, topic: str, mode: str, prompts: int, controls: int) -> None:
    """Raise an error unless the arguments can be used together."""
    check_choice("mode", mode, choices(Mode))
    if not neuron and not topic:
        raise ExperimentError(
            "no neuron or topic is given", remedy="give a neuron, a topic, or both"
        )
    for name, value, least in (
        ("prompts", prompts, FEWEST_PROMPTS),
        ("controls", controls, FEWEST_CONTROLS),
    ):
        if value < least:
            raise ExperimentError(f"{name} is {value}", remedy=f"give {least} or more")


def _check_means(settings: Mapping[str, Any], mode: Mode) -> None:
    """Raise ExperimentError if the atlas does not have the means with which a mode replaces."""
    if mode != "zero" and settings["pool"] != "mean":
        raise ExperimentError(
            f"the atlas has no mean activations over tokens: it was built with pool"
            f" '{settings['pool']}'",
            options=[Option("mode", "zero", "replace neurons by 0")],
        )


def _sets_of_neuron(atlas: Atlas, neuron: str, topic: str) -> Sets:
    """Return a neuron as a set of its own for each topic on which it is tested."""
    card = atlas.neuron(neuron)
    canonical, topics = card.neuron["name"], card.topics
    if topic:
        return {topic: [[canonical]]}
    selective = topics.loc[topics["selective"], "topic"].tolist()
    return {name: [[canonical]] for name in selective or topics["topic"].tolist()[:1]}


def _sets_of_topic(atlas: Atlas, topic: str, top: int) -> Sets:
    """Return the strongest neurons of a topic, each alone and all together."""
    names = atlas.neurons(topic, top=top)["neuron"].tolist()
    if not names:
        raise ExperimentError(
            f"no neuron is selective for the topic '{topic}'", remedy="name a neuron to test"
        )
    together = [names] if len(names) > 1 else []
    return {topic: [*([name] for name in names), *together]}


def _ablation(
    atlas: Atlas,
    source: AtlasPrompts,
    topic: str,
    tested: Sequence[Sequence[str]],
    prompts: int,
    controls: int,
    seed: int,
) -> TopicAblation:
    """Draw the prompts of a topic, and match the controls of the neurons that are tested."""
    number = atlas.check_topic(topic)
    drawn = source.draw(number, prompts, seed)
    layers = {int(name.split(".")[1]) for names in tested for name in names}
    neurons = neurons_in(atlas, number, sorted(layers))
    return TopicAblation.of(topic, drawn, neurons, tested, controls, seed)


def _counting(progress: Progress, total: int) -> Callable[[], None]:
    """Return a function that reports one more set of neurons at each call."""
    numbers = itertools.count(1)
    progress("ablate", 0, total)
    return lambda: progress("ablate", next(numbers), total)
