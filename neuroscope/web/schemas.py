"""Bodies of requests and answers of the interface."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints


def _utf8(text: str) -> str:
    """Return a text; raise ValueError if it has half of a surrogate pair, as JSON allows."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it is not valid Unicode") from None
    return text


Text = Annotated[str, AfterValidator(_utf8)]
Name = Annotated[Text, StringConstraints(max_length=500)]
JobId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProbeRequest(_Body):
    """Prompts to read."""

    prompts: list[Text] = Field(min_length=1, description="Texts, or what fills the template.")
    model: Name = Field("", description="Name of a model; empty for the usual one.")
    site: Name = Field("mlp_act", description="Component, such as mlp_act or resid_post.")
    layers: Name = Field("all", description="Layers: all, 3, 0-5, 2,4 or -1 (the last).")
    template: Text = Field("", description="Text with {} where each of the prompts is put.")
    truncate: bool = Field(False, description="Whether to cut prompts at the model's limit.")
    top: int = Field(10, ge=1, le=100, description="Number of strongest neurons per layer.")
    job: JobId | None = Field(None, description="Id under which /api/jobs tells the progress.")


class Token(BaseModel):
    """Token of a prompt."""

    text: str
    special: bool = Field(description="Whether it frames the prompt, such as [CLS].")


class PromptTokens(BaseModel):
    """Prompt as the model reads it."""

    text: str
    tokens: list[Token]


class Strong(BaseModel):
    """Neuron that is unusually active at one of the prompts."""

    neuron: str = Field(description="Name, such as mlp_act.3.57.")
    unit: int = Field(description="Index in its layer.")
    values: list[float] = Field(description="Mean over the content tokens of each prompt.")
    z: list[float] = Field(description="The same in standard deviations from the usual mean.")


class TopOfLayer(BaseModel):
    """Strongest neurons of a layer, the largest |z| at any prompt first."""

    layer: int
    neurons: list[Strong]


class Compared(BaseModel):
    """Similarity of two prompts at a layer; null where the view has no token."""

    layer: int
    a: str
    b: str
    view: str = Field(description="span: the words that differ.")
    cosine: float | None
    mse: float | None
    cosine_z: float | None = Field(description="Cosine of the standardised activations.")
    rms_z: float | None = Field(description="Root mean square difference, in standard deviations.")


class ProbeAnswer(BaseModel):
    """What the neurons of a model do at some prompts."""

    id: str
    model: str
    fingerprint: str = Field(description="SHA-256 of the model's files.")
    site: str
    layers: list[int]
    neurons: int = Field(description="Number of neurons per layer.")
    prompts: list[PromptTokens]
    top: list[TopOfLayer]
    comparison: list[Compared]
    notes: list[str] = Field(description="Warnings about the values.")


class TokenValues(BaseModel):
    """Values of a neuron at every token of each prompt."""

    neuron: str
    values: list[list[float]]


class SilenceRequest(_Body):
    """Neurons to silence while the prompts of a probe are read."""

    neurons: list[Name] = Field(min_length=1, max_length=1000, description="Names of the neurons.")
    mode: Literal["mean", "zero"] = Field(
        "mean", description="What replaces them: their usual mean, or 0."
    )


class Silenced(BaseModel):
    """Change of the model's output when neurons are silenced."""

    measure: str = Field(description="What changes: the loss, or the final representation.")
    unit: str
    changes: list[float] = Field(description="Change at each prompt.")


class SessionRequest(_Body):
    """Probe to keep."""

    id: str = Field(description="Id of the probe.", max_length=100)
    watch: list[Name] = Field(default=[], max_length=200, description="Neurons to keep.")
    note: Annotated[Text, StringConstraints(max_length=5000)] = ""
    view: Annotated[Text, StringConstraints(max_length=500_000, pattern="^(/m/|$)")] = Field(
        "", description="Address of the page that showed it."
    )


class Saved(BaseModel):
    """Run that keeps a session."""

    run_id: str


class SessionItem(BaseModel):
    """Session in the list."""

    run_id: str
    name: str
    started: str
    model: str
    site: str
    prompts: int
    watched: int
    note: str
    address: str = Field(description="Page of the run in MLflow; empty if no server shows it.")


class Progress(BaseModel):
    """How far a request is."""

    stage: str
    done: int
    total: int


class Health(BaseModel):
    """State of the server."""

    status: str
    version: str
    models: list[str] = Field(description="Models in memory.")
    waiting: int = Field(description="Requests that wait for a model.")


class Refusal(BaseModel):
    """Answer to a request that fails."""

    error: str
    remedy: str


REFUSALS: dict[int | str, dict[str, Any]] = {"4XX": {"model": Refusal}}
"""Answers that every request may get."""
