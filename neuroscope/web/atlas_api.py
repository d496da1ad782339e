"""Requests for atlases: from topics to neurons, from neurons to topics, and search by text."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from neuroscope.reporting.run_reader import RunReader
from neuroscope.studies.atlas.cards import card_document
from neuroscope.studies.atlas.search import search_text
from neuroscope.studies.atlas.summary import atlas_result
from neuroscope.studies.atlas.tables import plain_records
from neuroscope.web.atlases import Atlases, AtlasItem, recorded_atlases
from neuroscope.web.jobs import Job
from neuroscope.web.schemas import REFUSALS, Text
from neuroscope.web.settings import Settings
from neuroscope.web.worker import ModelWorker

Top = Annotated[int, Query(ge=1, le=1000)]
Topic = Annotated[str | None, Query(max_length=500)]


class SearchRequest(BaseModel):
    """Text to search by."""

    model_config = ConfigDict(extra="forbid")
    text: Text = Field(min_length=1)
    top: int = Field(20, ge=1, le=200)


def atlas_routes(settings: Settings, worker: ModelWorker) -> APIRouter:
    """Return the routes."""
    routes, atlases = (
        APIRouter(prefix="/api/atlases", tags=["atlas"], responses=REFUSALS),
        Atlases(),
    )

    @routes.get("")
    def recorded() -> list[AtlasItem]:
        """List the recorded atlases, newest first."""
        return recorded_atlases(RunReader.connect())

    @routes.get("/{run_id}")
    def summary(run_id: str) -> dict[str, Any]:
        """Return the settings of an atlas, its topics, and what each layer has for each topic."""
        atlas = atlases[run_id]
        result = atlas_result(atlas.path, atlas.model()["name"])
        topics = plain_records(atlas.topics())
        return {**result.to_dict(), "run_id": run_id, "covariates": topics}

    @routes.get("/{run_id}/neurons")
    def neurons(
        run_id: str,
        topic: Topic = None,
        layers: Annotated[str | None, Query(max_length=100)] = None,
        top: Top = 50,
        selective: bool = True,
        confounded: bool | None = None,
        verified: bool | None = None,
    ) -> list[dict[str, Any]]:
        """List the neurons of a topic, or of all topics, the strongest first."""
        frame = atlases[run_id].neurons(
            topic,
            layers=layers,
            top=top,
            selective=selective,
            confounded=confounded,
            verified=verified,
        )
        return plain_records(frame)

    @routes.get("/{run_id}/neurons/{name}")
    def card(run_id: str, name: str) -> dict[str, Any]:
        """Return what an atlas holds on a neuron: topics, histogram, examples, tokens."""
        atlas = atlases[run_id]
        return card_document(atlas.neuron(name), atlas.topics())

    @routes.post("/{run_id}/search")
    async def search(run_id: str, request: SearchRequest, http: Request) -> list[dict[str, Any]]:
        """Find the neurons that respond most unusually to a text."""
        atlas = await run_in_threadpool(atlases.__getitem__, run_id)
        name = settings.check_model(atlas.model()["name"])
        frame = await worker.run(
            name,
            Job(),
            lambda model, job: search_text(atlas, request.text, top=request.top, model=model),
            client=http.is_disconnected,
        )
        return plain_records(frame)

    return routes
