"""Requests for drift: checked versions over dates, and what a check has found."""

import json
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from neuroscope.reporting.recorded import RecordedRun
from neuroscope.reporting.run_reader import RunReader
from neuroscope.studies.drift.history import BASE_VERSION_TAG, MODEL_TAG, VERSION_TAG
from neuroscope.studies.drift.outputs import DOCUMENT, VERDICT_TAG
from neuroscope.web.recorded import check_recorded
from neuroscope.web.schemas import REFUSALS


class CheckItem(BaseModel):
    """Check of a version of a model against another."""

    run_id: str
    name: str
    started: str
    verdict: str = Field(description="identical, compatible, drifted or inconclusive.")
    model: str = Field(description="Name of the registered model; empty for other models.")
    version: str
    base_version: str
    statistic: float | None = Field(description="Largest distance over the layers.")
    lower: float | None = Field(description="One-sided 95 % confidence limits of it.")
    upper: float | None
    margin: float | None = Field(description="Largest distance that is tolerated.")
    kl: float | None = Field(description="Mean KL divergence of the predictions, in nats.")
    address: str = Field(description="Page of the run in MLflow; empty if no server shows it.")


def drift_routes() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/drift", tags=["drift"], responses=REFUSALS)

    @routes.get("")
    def checks() -> list[CheckItem]:
        """List the checks, newest first."""
        reader = RunReader.connect()
        return [_item(run, reader.page_of(run)) for run in reader.find_runs("drift")]

    @routes.get("/{run_id}")
    def check(run_id: str) -> dict[str, Any]:
        """Return what a check has found: layers, topics, prompts, neurons and tokens."""
        reader = check_recorded("drift", run_id)
        document = json.loads(reader.artifact(run_id, DOCUMENT).read_text(encoding="utf-8"))
        return {**document, "links": reader.links(run_id)}

    return routes


def _item(run: RecordedRun, address: str) -> CheckItem:
    metrics = {
        name: run.metrics.get(f"drift/{name}")
        for name in ("statistic", "lower", "upper", "margin", "kl")
    }
    return CheckItem(
        run_id=run.id,
        name=run.name,
        started=run.started.isoformat(timespec="seconds"),
        verdict=run.tags.get(VERDICT_TAG, ""),
        model=run.tags.get(MODEL_TAG, ""),
        version=run.tags.get(VERSION_TAG, ""),
        base_version=run.tags.get(BASE_VERSION_TAG, ""),
        address=address,
        **metrics,
    )
