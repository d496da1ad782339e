"""Experiments: the settings needed to repeat a study, validated on creation."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from neuroscope.errors import ExperimentError, Option
from neuroscope.experiment_faults import (
    InvalidExperiment,
    Keys,
    about,
    checked,
    faults_of,
    validator,
)
from neuroscope.experiment_values import (
    SCHEMA,
    check_models,
    check_name,
    check_schema,
    check_study_site,
    layers_text,
)
from neuroscope.files import absolute
from neuroscope.options import Attention, Dtype, Memory, check_device_name
from neuroscope.prompt_files import PromptFile
from neuroscope.prompts import Prompts, PromptSet, fill_template
from neuroscope.sites import parse_site

E = TypeVar("E", bound="Experiment")

_SOURCES = (
    Option("template", "The {} is on the mat", "give a sentence with {}"),
    Option("file", "prompts.txt", "name a file of prompts"),
)


def yaml_spelling(option: Option) -> str:
    """Return a setting as written in an experiment file, such as `dtype: float32`."""
    value = option.value
    if isinstance(value, list):
        return f"{option.name}: [{', '.join(map(str, value))}]"
    return f"{option.name}: {str(value).lower() if isinstance(value, bool) else value}"


def key_spelling(experiment: "type[Experiment]") -> Callable[[Option], str | None]:
    """Return a function that spells settings as keys of an experiment or of its prompts.

    It returns None for settings that the experiment lacks.
    """
    known = {*experiment.model_fields, *PromptSource.model_fields}
    return lambda option: yaml_spelling(option) if option.name in known else None


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
    def _complete(self) -> Self:
        checked(self._check_source)
        if not self.file:
            checked(lambda: PromptSet.of(self._inline()))
        return self

    def _check_source(self) -> None:
        """Raise ExperimentError unless the prompts have exactly one source, with its settings."""
        given = {
            "listed": self.texts,
            "made from a template": self.template,
            "in a file": self.file,
        }
        ways = [way for way, value in given.items() if value]
        if len(ways) > 1:
            raise ExperimentError(
                f"the prompts are {' and '.join(ways)}", remedy="keep one of them"
            )
        if not ways and not self.fills:
            raise ExperimentError("no prompts are given", options=_SOURCES, remedy="list them")
        if self.fills and not self.template:
            words = ", ".join(map(repr, self.fills))
            raise ExperimentError(f"the words {words} have no template", options=_SOURCES[:1])
        if not self.file and (self.label_columns is not None or self.text_column != "text"):
            raise ExperimentError("columns are named, but no file", options=_SOURCES[1:])

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
        return fill_template(self.template, self.fills)


class Fingerprints(Settings):
    """SHA-256 digests of the models and prompts that a recorded run read."""

    models: dict[str, str] = Field(
        {}, description="Digest of each model's files, keyed by its name"
    )
    prompts: str = Field("", description="Digest of the prompts' ids, texts and labels")


class Experiment(Settings):
    """Settings needed to repeat a study; each kind of study has its own subclass.

    >>> experiment = load_experiment("experiments/cat_dog.yaml")
    >>> experiment.kind, experiment.models
    ('compare', ['minilm'])
    """

    schema_number: Annotated[int, validator(check_schema)] = Field(
        SCHEMA, alias="schema", ge=1, description="Version of the format of experiment files"
    )
    kind: str = Field(description="Kind of study")
    name: Annotated[str, validator(check_name)] = Field(
        description="Short name, also used for the MLflow run: letters, digits, `_`, `.`, `-`",
    )
    note: str = Field(
        "", description="What the experiment asks; stored as the description of the MLflow run"
    )
    device: Annotated[str, validator(check_device_name)] = Field(
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

    def prompt_sources(self) -> list[PromptSource]:
        """Return the sources of the experiment's prompts."""
        raise NotImplementedError

    def document(self) -> dict[str, Any]:
        """Return every key with its value, as in an experiment file."""
        return self.model_dump(mode="json", by_alias=True)


class ModelsExperiment(Experiment):
    """Experiment that reads one component of the layers of one or more models."""

    models: Annotated[list[str], validator(check_models)] = Field(
        min_length=1,
        description="Models to read: built-in names (`minilm`), folders, hub ids, optionally with a"
        " revision (`bert-base-uncased@main`), or models in the MLflow registry (`models:/name/3`,"
        " `models:/name@alias`)",
    )
    site: Annotated[str, validator(check_study_site)] = Field(
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
        checked(self._check_layers)
        return self

    def _check_layers(self) -> None:
        """Raise ExperimentError if the site names its layer and layers are given too."""
        if parse_site(self.site)[1] is not None and self.layers != "all":
            with about("layers"):
                raise ExperimentError(
                    f"site '{self.site}' names its layer and layers '{self.layers}' are given too",
                    remedy="remove one of the two",
                )

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
        raise InvalidExperiment(faults_of(error, experiment, where)) from error
