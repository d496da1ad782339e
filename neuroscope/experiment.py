"""Everything needed to repeat a study, read from `experiments/*.yaml`."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from neuroscope.errors import ExperimentError, NeuroscopeError
from neuroscope.prompts import PromptSet, fill_template
from neuroscope.results import pair_labels
from neuroscope.sites import Layers, Site, parse_site

Keys = tuple[str | int, ...]
"""Keys and indices that lead to a value in a YAML document."""


def _layers_text(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    _checked(lambda: Layers.parse(text))
    return text


def _plot_layers_text(value: Any) -> str:
    return "middle" if value == "middle" else _layers_text(value)


def _device_text(text: str) -> str:
    if not re.fullmatch(r"auto|all|cpu(:\d+)?|mps|cuda(:\d+)?", text):
        raise ValueError(
            f"unknown device '{text}': it is auto, cpu, cpu:4, cuda, cuda:1, mps or all"
        )
    return text


def _site_text(value: Any) -> str:
    _checked(lambda: parse_site(str(value)))
    return str(value)


def _whole_site_text(text: str) -> str:
    _checked(lambda: Site.parse(text))
    return text


def _checked(parse: Callable[[], Any]) -> Any:
    """Lets pydantic say where the fault is, as it does for a ValueError."""
    try:
        return parse()
    except NeuroscopeError as error:
        raise ValueError(str(error)) from error


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptGroup(_Part):
    """Prompts to be compared with each other: given as texts, or as a template and its fills."""

    texts: list[str] = Field([], description="Prompts, word for word")
    template: str = Field("", description="Text with {} where the fills go")
    fills: list[str] = Field([], description="Words that take the place of {}, one prompt each")

    @model_validator(mode="after")
    def _two_distinct_prompts(self) -> "PromptGroup":
        if bool(self.texts) == bool(self.template):
            raise ValueError("give either 'texts', or a 'template' with 'fills'")
        if self.fills and not self.template:
            raise ValueError("'fills' need a 'template' that holds {}")
        prompts = self.prompts()
        _checked(lambda: PromptSet.of(prompts))
        repeated = next((text for text in prompts if prompts.count(text) > 1), None)
        if repeated is not None:
            raise ValueError(f"prompt {repeated!r} stands there twice: leave one out")
        if len(prompts) < 2:
            raise ValueError(
                f"one prompt ({prompts[0]!r}) where at least two are needed to compare: add another"
            )
        return self

    def prompts(self) -> list[str]:
        """The texts, or the template filled in."""
        if not self.template:
            return list(self.texts)
        filled: list[str] = _checked(lambda: fill_template(self.template, self.fills))
        return filled


class PublishedPair(_Part):
    """Published figures for one pair of prompts."""

    a: str = Field(description="First prompt, word for word")
    b: str = Field(description="Second prompt, word for word")
    cosine: float = Field(description="Published cosine similarity")
    mse: float = Field(description="Published mean squared error")


class PublishedFigures(_Part):
    """Published figures to set beside the measured ones; they hold for one model and site only."""

    model: str = Field(description="Model the figures were measured on, as in `models`")
    site: Annotated[str, AfterValidator(_whole_site_text)] = Field(
        description="Site they were measured at, with its layer"
    )
    source: str = Field(description="Where the figures come from")
    pairs: list[PublishedPair] = Field(min_length=1, description="The figures, one pair each")


class Experiment(_Part):
    """A study that can be repeated.

    >>> experiment = load_experiment("experiments/engineer.yaml")
    >>> experiment.models
    ['minilm']
    """

    kind: Literal["compare"] = Field(description="The study: compare (prompts with each other)")
    name: str = Field(pattern=r"^[\w.-]+$", description="Short name, also of the MLflow run")
    note: str = Field("", description="What the experiment asks; becomes the run's description")
    models: list[str] = Field(
        min_length=1, description="Built-in names, folders or hub ids (id@revision)"
    )
    site: Annotated[str, BeforeValidator(_site_text)] = Field(
        "resid_post", description="Component to read, with or without a layer"
    )
    layers: Annotated[str, BeforeValidator(_layers_text)] = Field(
        "all", description="all, 3, 0-5, 2,4 or -1 (the last)"
    )
    prompts: list[PromptGroup] = Field(
        description="Groups of prompts; pairs are made within a group"
    )
    plot_layers: Annotated[str, BeforeValidator(_plot_layers_text)] = Field(
        "middle", description="Layers whose neurons are drawn: middle, or as `layers`"
    )
    device: Annotated[str, AfterValidator(_device_text)] = Field(
        "auto",
        description="auto (a GPU if there is one), cpu, cpu:4 (threads), cuda, cuda:1, mps or all",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Number format of the forward pass"
    )
    attention: Literal["sdpa", "eager"] = Field("sdpa", description="Implementation of attention")
    truncate: bool = Field(False, description="Cut prompts at the model's limit")
    published: PublishedFigures | None = Field(
        None, description="Published figures to set beside the measured ones"
    )

    @field_validator("prompts")
    @classmethod
    def _some_prompts(cls, groups: list[PromptGroup]) -> list[PromptGroup]:
        if not groups:
            raise ValueError("no prompts: give at least two 'texts', or a 'template' with 'fills'")
        return groups

    @model_validator(mode="after")
    def _one_choice_of_layers(self) -> "Experiment":
        if parse_site(self.site)[1] is not None and self.layers != "all":
            raise ValueError(
                f"site '{self.site}' names its layer, and layers '{self.layers}' are asked for as"
                " well: leave one of the two out"
            )
        if not all(model.strip() for model in self.models):
            raise ValueError("a model's name is blank: name a model or leave it out")
        if len(set(self.models)) < len(self.models):
            raise ValueError("a model is named twice: leave one out")
        return self

    @property
    def component(self) -> str:
        return parse_site(self.site)[0]

    @property
    def layer_choice(self) -> Layers:
        layer = parse_site(self.site)[1]
        return Layers.parse(self.layers if layer is None else layer)

    def prompt_set(self) -> PromptSet:
        """Every distinct prompt of all groups, in the order in which they first appear."""
        texts = itertools.chain.from_iterable(group.prompts() for group in self.prompts)
        return PromptSet.of(dict.fromkeys(texts))

    def pairs(self) -> list[tuple[str, str]]:
        """Every pair of prompts within a group, each once, as texts."""
        found: dict[frozenset[str], tuple[str, str]] = {}
        for group in self.prompts:
            for pair in itertools.combinations(group.prompts(), 2):
                found.setdefault(frozenset(pair), pair)
        return list(found.values())


def load_experiment(path: str | Path) -> Experiment:
    """Reads an experiment from a YAML file.

    Raises:
        ExperimentError: the file is missing, not YAML, or holds a wrong key or value; the message
            names the file and the line.
    """
    import yaml

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
        _refuse_repeated_keys(path, root)
    except OSError as error:
        raise ExperimentError(
            f"cannot read experiment '{path}': {error.strerror}. Give the path of a YAML file such"
            " as experiments/engineer.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ExperimentError(f"{path}{line}: not YAML: {problem}") from error
    except ValueError as error:  # such as a date that does not exist
        raise ExperimentError(f"{path}: not YAML: {error}; quote such texts") from error
    if not isinstance(data, dict):
        raise ExperimentError(f"{path}: expected keys such as 'kind: compare' and 'models: […]'")
    return make_experiment(data, where=lambda keys: f"{path}, line {_line(root, keys)}: ")


def make_experiment(
    data: dict[str, Any], *, where: Callable[[Keys], str] = lambda keys: ""
) -> Experiment:
    """An experiment from plain values.

    Args:
        data: keys and values as in a file.
        where: says where the value at some keys stands; put before what is wrong with it.

    Raises:
        ExperimentError: a key is unknown or missing, or a value is wrong.
    """
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        problems = [where(fault["loc"]) + _explain(fault) for fault in error.errors()]
        raise ExperimentError("\n".join(problems)) from error


def compare_experiment(model: str, group: dict[str, Any], **settings: Any) -> Experiment:
    """A comparison that was asked for without a file: one model, one group of prompts.

    Its name says in which words its first two prompts differ, such as `cat-vs-dog`.

    Args:
        model: as in `models`.
        group: keys and values of a `PromptGroup`; empty where nothing was given.
        settings: other keys of an experiment.

    Raises:
        ExperimentError: as `make_experiment`.
    """
    prompts = [group] if any(group.values()) else []
    plan = {"kind": "compare", "name": "compare", "models": [model], "prompts": prompts}
    experiment = make_experiment(plan | settings)
    label = next(iter(pair_labels(experiment.pairs()).values()))
    name = re.sub(r"[^\w.-]+", "-", label).strip("-.") or "compare"
    return experiment.model_copy(update={"name": name})


def _explain(fault: Any) -> str:
    keys: Keys = fault["loc"]
    name = ".".join(map(str, keys))
    if fault["type"] == "extra_forbidden":
        known = list(_fields_at(keys[:-1]))
        near = get_close_matches(str(keys[-1]), known, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        return f"unknown key '{keys[-1]}'{hint}; keys here are {', '.join(known)}"
    if fault["type"] == "missing":
        return f"key '{name}' is missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error" or not name:
        return message
    return f"{name}: {message}, found {fault['input']!r}"


def _fields_at(keys: Sequence[str | int]) -> Iterator[str]:
    """Names of the keys that are known at a place in the document."""
    part: Any = Experiment
    for key in keys:
        if isinstance(key, str):
            annotation = part.model_fields[key].annotation
            inside = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
            part = next(one for one in inside if issubclass(one, BaseModel))
    yield from part.model_fields


def _refuse_repeated_keys(path: Path, node: Any) -> None:
    """YAML would silently keep the last of two values under one key."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(path, item)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for name, value in node.value:
            if name.value in seen:
                line = name.start_mark.line + 1
                raise ExperimentError(
                    f"{path}, line {line}: key '{name.value}' stands there twice: leave one out"
                )
            seen.add(name.value)
            _refuse_repeated_keys(path, value)


def _line(node: Any, keys: Keys) -> int:
    """Line, from 1, of the key or item that `keys` lead to, or of the nearest one around it."""
    import yaml

    line = int(node.start_mark.line) + 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = [(name, value) for name, value in node.value if name.value == key]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            found = [(value, value) for value in node.value[key : key + 1]]
        else:
            found = []
        if not found:
            break
        name, node = found[-1]
        line = int(name.start_mark.line) + 1
    return line
