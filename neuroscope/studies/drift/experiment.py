"""Experiment of a study of drift: a base, a candidate, prompts, and the rule of the decision."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from neuroscope.errors import ExperimentError, Option
from neuroscope.experiment import ModelsExperiment, PromptSource, make_experiment
from neuroscope.experiment_faults import about, checked, validator
from neuroscope.experiment_values import check_study_site, plain_name
from neuroscope.files import absolute
from neuroscope.options import Dtype, Pool
from neuroscope.prompts import PromptSet
from neuroscope.stats.decision import least_replicates

LEAST_PROMPTS = 20
"""Fewest prompts with which limits from a bootstrap over prompts mean something."""

USUAL_REPLICATES = 19
"""Number of replicates unless more are needed: the fewest for an alpha of 0.05."""

BenignChange = Literal["batches", "padding", "attention", "dtype"]
"""Changes of the computation that a model must not be blamed for."""


def _check_two(names: list[str]) -> None:
    """Raise ExperimentError unless two models are named; both may be the same."""
    if not all(name.strip() for name in names):
        raise ExperimentError("the name of a model is blank", remedy="fill it in")
    if len(names) != 2:
        raise ExperimentError(
            f"drift compares 2 models, not {len(names)}",
            remedy="name the base first and the candidate second",
        )


class DriftExperiment(ModelsExperiment):
    """Check of whether a candidate may replace a base, on the same prompts."""

    kind: Literal["drift"] = Field(
        "drift", description="`drift`: whether a new version of a model may replace the old one"
    )
    models: Annotated[list[str], validator(_check_two)] = Field(
        description="The base and the candidate, named as in the other studies"
    )
    prompts: PromptSource = Field(description="The prompts: `texts`, a `template` or a `file`")
    site: Annotated[str, validator(check_study_site)] = Field(
        "mlp_act", description="Component whose neurons decide, as in the other studies"
    )
    pool: Pool = Field(
        "mean", description="Way to pool the tokens of a prompt: `mean`, `max`, `last` or `first`"
    )
    candidate_dtype: Dtype | None = Field(
        None, description="Number format of the candidate; by default that of the base, `dtype`"
    )
    margin: float = Field(
        0.05,
        gt=0,
        le=2,
        description="Largest statistic that is acceptable; the statistic is the largest over layers"
        " of the median over neurons of 1 - r",
    )
    alpha: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Rate of false alarms: the probability of `drifted` for"
        " a candidate that computes what the base computes",
    )
    replicates: int | None = Field(
        None,
        ge=1,
        description="Number of times that the base is compared with itself; by default 19, and"
        " as many as `alpha` requires before a candidate is called `drifted`",
    )
    benign: list[BenignChange] = Field(
        ["batches", "padding", "attention", "dtype"],
        min_length=1,
        description="What varies between replicates: the grouping of prompts into `batches`, the"
        " side of `padding`, the `attention` implementation, the `dtype`",
    )
    resamples: int = Field(1000, ge=100, description="Number of bootstrap resamples of the prompts")
    label: str = Field(
        "",
        description="Label, such as `topic`, by which changes are reported and that a probe reads;"
        " by default the only label column of the file, if there is one",
    )
    associations: str = Field(
        "",
        description="Experiment file of kind `association`, relative to the folder of this file;"
        " its contrasts are measured in both models, and those that changed are named",
    )
    seed: int = Field(0, ge=0, description="Seed of replicates, resamples and splits")

    @field_validator("associations")
    @classmethod
    def _absolute_associations(cls, file: str, info: ValidationInfo) -> str:
        folder = (info.context or {}).get("folder", Path())
        return str(absolute(folder / Path(file).expanduser())) if file else file

    @model_validator(mode="after")
    def _enough_replicates(self) -> Self:
        checked(self._check_replicates)
        return self

    def _check_replicates(self) -> None:
        """Raise ExperimentError if no number of replicates can show drift at `alpha`."""
        least = least_replicates(self.alpha)
        if self.replicates is not None and self.replicates < least:
            with about("replicates"):
                raise ExperimentError(
                    f"{self.replicates} replicates cannot show drift at alpha {self.alpha:g},"
                    f" which needs {least} or more",
                    options=[
                        Option("replicates", least, "compare the base with itself more often")
                    ],
                )

    def replicates_for(self, *, above_margin: bool) -> int:
        """Return how many replicates a decision needs.

        Args:
            above_margin: whether the lower limit of the statistic is above the margin, so that the
                p-value decides.
        """
        if self.replicates is not None:
            return self.replicates
        return max(USUAL_REPLICATES, least_replicates(self.alpha) if above_margin else 0)

    def prompt_sources(self) -> list[PromptSource]:
        return [self.prompts]

    @cached_property
    def prompt_set(self) -> PromptSet:
        """Prompts of the experiment, all in memory.

        Raises:
            PromptError: the file is missing or malformed.
            ExperimentError: there are too few prompts.
        """
        with about("prompts", "file"):
            prompts = PromptSet(tuple(self.prompts.prompts()))
            if len(prompts) < LEAST_PROMPTS:
                raise ExperimentError(
                    f"a check of drift needs {LEAST_PROMPTS} prompts or more; there are"
                    f" {len(prompts)}"
                )
        return prompts

    @cached_property
    def studied_label(self) -> str:
        """Label by which changes are reported; empty if the prompts have none, or several.

        Raises:
            ExperimentError: no prompt has the named label.
        """
        names = sorted({name for prompt in self.prompt_set for name in prompt.labels})
        if self.label and self.label not in names:
            with about("label"):
                known = f"; the labels are {', '.join(names)}" if names else ""
                raise ExperimentError(f"no prompt has the label '{self.label}'{known}")
        return self.label or (names[0] if len(names) == 1 else "")


def drift_experiment(
    base: str, candidate: str, source: dict[str, Any], *, name: str = "", **settings: Any
) -> DriftExperiment:
    """Create the experiment of a check of drift without a YAML file.

    Args:
        base: name of the base.
        candidate: name of the candidate.
        source: keys and values of a `PromptSource`.
        name: name of the experiment; if empty, that of the file.
        settings: other keys of the experiment, with their values.

    Raises:
        ExperimentError: as in `make_experiment`.
    """
    name = name or plain_name(Path(source.get("file", "")).stem, "drift")
    data = {"kind": "drift", "name": name, "models": [base, candidate], "prompts": source}
    return make_experiment(DriftExperiment, data | settings)
