"""Flow that checks the new versions of a registered model, on a schedule or on demand."""

import json
import re
from functools import partial

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from flows.executor import PrefectExecutor
from flows.form import ITEM, NumberFormat, Site
from flows.layers import PromptFile
from flows.study_flow import flow_tags, form_flow
from neuroscope.errors import NeuroscopeError
from neuroscope.json_text import json_text
from neuroscope.reporting.tables import to_markdown
from neuroscope.reporting.tracking import Tracker
from neuroscope.studies.drift.history import VersionDrift, checks_table
from neuroscope.studies.drift.monitor import Watch, check_versions

CHECKED = "neuroscope.drift.checked"
"""Event after each check, to which automations can react."""


def run_monitor(watch: Watch) -> None:
    """Check the new versions within a flow run; each check becomes an event and an artifact.

    Raises:
        NeuroscopeError: a version could not be checked; the others were.
    """
    tracker = Tracker.open(flow_tags())

    with PrefectExecutor() as executor:
        report = check_versions(
            watch, tracker, executor, on_checked=partial(announce, watch.name, tracker)
        )
    get_run_logger().info(report.headline)
    if report.failed:
        raise NeuroscopeError(
            "; ".join(f"version {failure.version}: {failure.error}" for failure in report.failed)
        )


def announce(name: str, tracker: Tracker, check: VersionDrift) -> None:
    """Emit the event of a check of a registered model, and create an artifact of the flow run."""
    emit_checked(name, check)
    address = tracker.links(check.run_id).get("MLflow run", "")
    table = to_markdown(checks_table(f"{name} version {check.version}", [check]))
    create_markdown_artifact(
        "\n\n".join(filter(None, [table, address and f"[MLflow run]({address})"])),
        key=artifact_key(name),  # that of all checks of the model, which makes a timeline
        description=f"version {check.version} {check.verdict}",
    )


def emit_checked(name: str, check: VersionDrift) -> None:
    """Emit the event of a check; its resource is the version of the registered model."""
    emit_event(
        CHECKED,
        resource={
            "prefect.resource.id": f"mlflow.model-version.{name}.{check.version}",
            "prefect.resource.name": f"{name} version {check.version}",
            "neuroscope.verdict": check.verdict,
        },
        payload={"name": name, **json.loads(json_text(check.to_dict()))},
    )


def artifact_key(name: str) -> str:
    """Return the key of a model's artifacts: lower-case letters, digits and dashes.

    >>> artifact_key("News_Model 2")
    'drift-news-model-2'
    """
    return "drift-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@partial(form_flow, work=run_monitor, name_of=lambda watch: f"monitor {watch.name}")
def monitor(
    name: ITEM,
    prompts: PromptFile = PromptFile(),  # noqa: B008 - immutable
    alias: ITEM = "champion",
    label: str = "",
    site: Site = "mlp_act",
    layers: str = "all",
    margin: float = 0.05,
    alpha: float = 0.05,
    truncate: bool = False,
    dtype: NumberFormat = "float32",
    device: str = "auto",
) -> Watch:
    """Check every version of a registered model that was not yet checked against the alias.

    Args:
        name: Name of a model in the MLflow registry.
        prompts: Prompts, with a label such as topic by which changes are reported.
        alias: Alias of the version with which the others are compared.
        label: Label column; may be empty if the file has only one.
        site: Component whose neurons decide: mlp_act (the MLP's neurons), resid_post (the residual
            stream leaving the layer), resid_pre, attn_out, mlp_out or final.
        layers: Layers to read: all, one layer (5), a range (2-5), a list (0,2,5), or -1 for the
            last; they count from 0.
        margin: Largest acceptable statistic: the largest over layers of the median over neurons of
            1 - r.
        alpha: Rate of false alarms of all checks of this model with these prompts together.
        truncate: Truncate prompts at the model's limit instead of refusing them.
        dtype: Number format: float32, bfloat16 or float16.
        device: auto (a GPU if there is one), cpu, cpu:4 (four threads), cuda, cuda:1, mps or all
            (every GPU).
    """
    settings = {
        "label": label,
        "site": site,
        "layers": layers,
        "margin": margin,
        "alpha": alpha,
        "truncate": truncate,
        "dtype": dtype,
        "device": device,
    }
    return Watch(name, prompts.model_dump(), alias, settings)
