"""Experiments: the settings needed to repeat a study, validated on creation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from neuroscope.errors import ExperimentError, NeuroscopeError, Option
from neuroscope.files import absolute
from neuroscope.options import Attention, Dtype, Memory, check_device_name
from neuroscope.prompt_files import PromptFile
from neuroscope.prompts import Prompts, PromptSet, fill_template
from neuroscope.sites import Layers, parse_site

SCHEMA = 1
"""Version of the format of experiment files; newer versions are refused."""

Keys = tuple[str | int, ...]
"""Path of keys and list indices to a value in a document."""
E = TypeVar("E", bound="Experiment")


def checked(parse: Callable[[], Any]) -> Any:
    """Return what `parse` returns; raise its error as a ValueError, which pydantic reports."""
    try:
        return parse()
    except NeuroscopeError as error:
        raise ValueError(error.message(yaml_spelling)) from error


def yaml_spelling(option: Option) -> str:
    """Return a setting as written in an experiment file, such as `dtype: float32`."""
    value = str(option.value).lower() if isinstance(option.value, bool) else str(option.value)
    return f"{option.name}: {value}"


def key_spelling(experiment: "type[Experiment]") -> Callable[[Option], str | None]:
    """Return a function that spells settings as keys of an experiment.

    It returns None for settings that the experiment lacks.
    """
    return lambda option: yaml_spelling(option) if option.name in experiment.model_fields else None


def layers_text(value: Any) -> str:
    """Return a choice of layers, given as text, an integer or a list of integers, as text."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    checked(lambda: Layers.parse(text))
    return text


def _site_text(value: Any) -> str:
    checked(lambda: parse_site(str(value)))
    return str(value)


def _device_text(text: str) -> str:
    checked(lambda: check_device_name(text))
    return text


class Settings(BaseModel):
    """Immutable group of keys; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class PromptSource(Settings):
    """Source of prompts: a list of texts, a template with fills, or a file."""

    texts: list[str] = Field([], description="Prompts, word for word")
    template: str = Field("", description="Text that contains {} exactly once, where the fills go")
    fills: list[str] = Field([], description="Words that replace {}, one prompt each")
    file: str = Field(
        "",
        description="File of prompts (.txt, .csv, .tsv, .jsonl, .parquet), relative to the folder"
        " of the experiment file",
    )
    text_column: str = Field("text", description="Column of the file that contains the prompts")
    label_columns: list[str] | None = Field(
        None,
        description="Columns of the file that contain labels; by default all except `id` and the"
        " text column",
    )

    @field_validator("file")
    @classmethod
    def _absolute_file(cls, file: str, info: ValidationInfo) -> str:
        if not file:
            return file
        folder = (info.context or {}).get("folder", Path())
        return str(absolute(folder / Path(file).expanduser()))

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if [bool(self.texts), bool(self.template), bool(self.file)].count(True) != 1:
            raise ValueError(
                "prompts need one source; give either 'texts', or a 'template' with 'fills', or a"
                " 'file'"
            )
        if self.fills and not self.template:
            raise ValueError("'fills' need a 'template'; give one that contains {}")
        if not self.file and (self.label_columns is not None or self.text_column != "text"):
            raise ValueError(
                "'text_column' and 'label_columns' need a 'file'; give one, or remove them"
            )
        if not self.file:
            checked(lambda: PromptSet.of(self._inline()))
        return self

    def prompts(self) -> Prompts:
        """Return the prompts; a file is read once to check it.

        Raises:
            PromptError: the file is missing or malformed, or lacks a column.
        """
        if not self.file:
            return PromptSet.of(self._inline())
        return PromptFile.open(
            self.file, text_column=self.text_column, label_columns=self.label_columns
        )

    def _inline(self) -> list[str]:
        if not self.template:
            return list(self.texts)
        texts: list[str] = checked(lambda: fill_template(self.template, self.fills))
        return texts


class Fingerprints(Settings):
    """SHA-256 digests of the models and prompts that a recorded run read."""

    models: dict[str, str] = Field(
        {}, description="Digest of each model's files, keyed by its name"
    )
    prompts: str = Field("", description="Digest of the prompts' ids, texts and labels")


class Experiment(Settings):
    """Settings needed to repeat a study; each kind of study has its own subclass.

    >>> experiment = load_experiment("experiments/engineer.yaml")
    >>> experiment.kind, experiment.models
    ('compare', ['minilm'])
    """

    schema_number: int = Field(
        SCHEMA, alias="schema", ge=1, description="Version of the format of experiment files"
    )
    kind: str = Field(description="Kind of study")
    name: str = Field(
        pattern=r"^[\w.-]+$",
        description="Short name, also used for the MLflow run: letters, digits, `_`, `.`, `-`",
    )
    note: str = Field(
        "", description="What the experiment asks; stored as the description of the MLflow run"
    )
    device: Annotated[str, AfterValidator(_device_text)] = Field(
        "auto",
        description="Device: `auto` (a GPU if there is one), `cpu`, `cpu:4` (four threads), `cuda`,"
        " `cuda:1`, `mps` or `all` (every GPU)",
    )
    dtype: Dtype = Field(
        "float32",
        description="Number format of the forward pass: `float32`, `bfloat16` or `float16`",
    )
    attention: Attention = Field("sdpa", description="Attention implementation: `sdpa` or `eager`")
    memory: Memory = Field(
        "auto",
        description="Placement of the weights: `resident` (in memory), `stream` (in their files;"
        " one layer at a time is loaded) or `auto` (stream if they do not fit in memory)",
    )
    truncate: bool = Field(
        False, description="Truncate prompts at the model's limit instead of refusing them"
    )
    fingerprints: Fingerprints | None = Field(
        None,
        description="Digests of models and prompts in the copy that is kept with a run; if that"
        " copy is run again, the result reports what has changed",
    )

    @field_validator("schema_number")
    @classmethod
    def _known_schema(cls, number: int) -> int:
        if number > SCHEMA:
            raise ValueError(
                f"schema {number} is newer than {SCHEMA}, the newest this version reads; upgrade"
                " neuroscope"
            )
        return number

    def prompt_sources(self) -> list[PromptSource]:
        """Return the sources of the experiment's prompts."""
        raise NotImplementedError

    def document(self) -> dict[str, Any]:
        """Return every key with its value, as in an experiment file."""
        return self.model_dump(mode="json", by_alias=True)


class ModelsExperiment(Experiment):
    """Experiment that reads one component of the layers of one or more models."""

    models: list[str] = Field(
        min_length=1,
        description="Models to read: built-in names (`minilm`), folders, hub ids, optionally with a"
        " revision (`bert-base-uncased@main`), or models in the MLflow registry (`models:/name/3`,"
        " `models:/name@alias`)",
    )
    site: Annotated[str, BeforeValidator(_site_text)] = Field(
        "resid_post",
        description="Component to read: `resid_pre`, `attn_out`, `mlp_act`, `mlp_out`,"
        " `resid_post`, or `final` (after the last layer only); with a layer (`mlp_act.3`), only"
        " that layer is read; TransformerLens names (`blocks.3.mlp.hook_post`) are accepted",
    )
    layers: Annotated[str, BeforeValidator(layers_text)] = Field(
        "all",
        description="Layers to read: `all`, one layer (`3`), a range (`0-5`), a list (`2,4`) or"
        " `-1` for the last; layers count from 0",
    )

    @model_validator(mode="after")
    def _unambiguous(self) -> Self:
        if self.component == "logits":
            raise ValueError(
                "no study reads site 'logits', one score per token of the vocabulary; choose"
                " 'final', from which the model computes the logits"
            )
        if parse_site(self.site)[1] is not None and self.layers != "all":
            raise ValueError(
                f"site '{self.site}' names its layer and layers '{self.layers}' are given too;"
                " remove one of the two"
            )
        if not all(model.strip() for model in self.models):
            raise ValueError("the name of a model is blank; fill it in or remove it")
        if len(set(self.models)) < len(self.models):
            raise ValueError("a model is named twice; remove one")
        return self

    @property
    def prompt_set(self) -> Prompts:
        """Prompts that are read in each model.

        Raises:
            PromptError: a file of prompts is missing or malformed.
        """
        raise NotImplementedError

    @property
    def component(self) -> str:
        """Component that `site` names."""
        return parse_site(self.site)[0]


def make_experiment(
    experiment: type[E],
    data: Mapping[str, Any],
    *,
    where: Callable[[Keys], str] = lambda keys: "",
    folder: Path | None = None,
) -> E:
    """Create an experiment from plain values.

    Args:
        experiment: class of the experiment.
        data: keys and values, as in an experiment file.
        where: function that returns the position of the value at some keys; the message of a fault
            begins with it.
        folder: folder that relative paths start from; the current folder if not given.

    Raises:
        ExperimentError: a key is unknown or missing, or a value is invalid; the message lists
            every fault.
    """
    try:
        return experiment.model_validate(data, context={"folder": folder or Path()})
    except ValidationError as error:
        faults = [where(fault["loc"]) + _explain(experiment, fault) for fault in error.errors()]
        raise ExperimentError("\n".join(faults)) from error


def _explain(experiment: type[Experiment], fault: Any) -> str:
    """Return the message for one fault that pydantic reports."""
    keys: Keys = fault["loc"]
    name = ".".join(map(str, keys))
    if fault["type"] == "extra_forbidden":
        known = list(_fields_at(experiment, keys[:-1]))
        near = get_close_matches(str(keys[-1]), known, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        return f"unknown key '{keys[-1]}'{hint}; keys here are {', '.join(known)}"
    if fault["type"] == "missing":
        return f"key '{name}' is missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error" or not name:
        return message
    return f"{name}: {message}, found {fault['input']!r}"


def _fields_at(experiment: type[Settings], keys: Sequence[str | int]) -> Iterator[str]:
    """Yield the names of the keys that are known at a position in a document."""
    group: Any = experiment
    for key in keys:
        if isinstance(key, str):
            annotation = next(
                field.annotation
                for name, field in group.model_fields.items()
                if key in (name, field.alias)
            )
            candidates = (annotation, *get_args(annotation))
            group = next(
                candidate
                for candidate in candidates
                if isinstance(candidate, type) and issubclass(candidate, BaseModel)
            )
    yield from (field.alias or name for name, field in group.model_fields.items())
