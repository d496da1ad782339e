"""Requests for probes: prompts in, what every neuron does out."""

import math
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from neuroscope.activations import Floats
from neuroscope.errors import PromptError
from neuroscope.extraction.models import Model
from neuroscope.prompts import fill_template
from neuroscope.studies.atlas.ablation_result import UNITS
from neuroscope.studies.probe.probe import Probe, probe
from neuroscope.studies.probe.silence import silenced_changes
from neuroscope.web.answers import ARROW, arrow_bytes
from neuroscope.web.jobs import Job, Jobs
from neuroscope.web.kept import GoneError, KeptProbes
from neuroscope.web.schemas import (
    REFUSALS,
    Compared,
    ProbeAnswer,
    ProbeRequest,
    Progress,
    PromptTokens,
    Silenced,
    SilenceRequest,
    Strong,
    Token,
    TokenValues,
    TopOfLayer,
)
from neuroscope.web.settings import Settings
from neuroscope.web.worker import ModelWorker

_BINARY: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/octet-stream": {}},
        "description": "float32, little-endian; its shape is in the header X-Shape",
    }
}
_ARROW: dict[int | str, dict[str, Any]] = {
    200: {"content": {ARROW: {}}, "description": "a stream of Arrow's IPC format"}
}


def probe_routes(settings: Settings, worker: ModelWorker, kept: KeptProbes) -> APIRouter:
    """Return the routes."""
    routes, jobs = APIRouter(prefix="/api", tags=["probe"], responses=REFUSALS), Jobs()

    @routes.post("/probe")
    async def run_probe(request: ProbeRequest, http: Request) -> ProbeAnswer:
        """Read what every neuron does at some prompts."""
        name, texts = settings.check_model(request.model), _texts(request, settings)

        def read(model: Model, job: Job) -> Probe:
            return probe(
                model,
                texts,
                request.site,
                request.layers,
                truncate=request.truncate,
                most_bytes=settings.limits.probe_bytes,
                progress=job,
            )

        head = request.site.startswith("logits")
        with jobs.job(request.job) as job:
            found = await worker.run(name, job, read, client=http.is_disconnected, head=head)
        return await run_in_threadpool(_answer, kept.add(found), found, request.top)

    @routes.get("/probe/{id}")
    def read_probe(id: str, top: Annotated[int, Query(ge=1, le=100)] = 10) -> ProbeAnswer:
        """Return a probe that is still in memory."""
        return _answer(id, kept[id], top)

    @routes.get("/probe/{id}/values", response_class=Response, responses=_BINARY)
    def read_values(id: str, layer: int | None = None) -> Response:
        """Return the mean over the content tokens, prompts x neurons, of a layer.

        Without a layer, those of all layers: layers x prompts x neurons.
        """
        found = kept[id]
        if layer is None:
            return _binary(np.stack([found.values(own) for own in found.layers]))
        return _binary(found.values(layer))

    @routes.get("/probe/{id}/z", response_class=Response, responses=_BINARY)
    def read_z(id: str, layer: int | None = None) -> Response:
        """Return the values in standard deviations from the usual mean, in the same shapes."""
        found = kept[id]
        if layer is None:
            return _binary(np.stack([found.z(own) for own in found.layers]))
        found.values(layer)  # checks the layer
        return _binary(found.z(layer))

    @routes.get("/probe/{id}/table", response_class=Response, responses=_ARROW)
    def read_table(id: str, layer: int) -> Response:
        """Return a layer as an Arrow table: neuron, unit, prompt, value and z."""
        return Response(arrow_bytes(kept[id].to_frame(layer)), media_type=ARROW)

    @routes.get("/probe/{id}/tokens")
    def read_tokens(id: str, neuron: Annotated[str, Query(max_length=100)]) -> TokenValues:
        """Return the value of a neuron at every token of each prompt."""
        values = kept[id].at_tokens(neuron)
        return TokenValues(neuron=neuron, values=[own.tolist() for own in values])

    @routes.post("/probe/{id}/silence")
    async def silence(id: str, request: SilenceRequest, http: Request) -> Silenced:
        """Silence neurons, and return how much the model's output changes at each prompt."""
        found = kept[id]
        measure, changes = await worker.run(
            found.model,
            Job(),
            lambda model, _: silenced_changes(model, found, request.neurons, request.mode),
            client=http.is_disconnected,
            head=True,
        )
        return Silenced(measure=measure, unit=UNITS[measure], changes=changes)

    @routes.get("/jobs/{id}")
    async def read_job(id: str) -> Progress:
        """Return how far a request in progress is."""
        job = jobs.find(id)
        if job is None:
            raise GoneError("no request in progress has this job id")
        return Progress(stage=job.stage, done=job.done, total=job.total)

    @routes.delete("/jobs/{id}", status_code=204)
    async def cancel_job(id: str) -> None:
        """Cancel a request in progress; one that has ended is left alone."""
        if job := jobs.find(id):
            job.cancelled.set()

    return routes


def _texts(request: ProbeRequest, settings: Settings) -> list[str]:
    """Return the prompts of a request.

    Raises:
        PromptError: there are too many, or one is too long.
    """
    limits, prompts = settings.limits, request.prompts
    if len(prompts) > limits.prompts:
        raise PromptError(
            f"{len(prompts)} prompts were given", remedy=f"give at most {limits.prompts}"
        )
    texts = fill_template(request.template, prompts) if request.template else prompts
    longest = max(map(len, texts))
    if longest > limits.characters:
        raise PromptError(
            f"a prompt has {longest:,} characters", remedy=f"give at most {limits.characters:,}"
        )
    return texts


def _answer(id: str, found: Probe, top: int) -> ProbeAnswer:
    tokens = zip(found.activations.prompts.texts, found.activations.tokens, strict=True)
    return ProbeAnswer(
        id=id,
        model=found.model,
        fingerprint=found.activations.provenance.fingerprint,
        site=found.component,
        layers=list(found.layers),
        neurons=found.values(found.layers[0]).shape[1],
        prompts=[
            PromptTokens(
                text=text,
                tokens=[
                    Token(text=token, special=special)
                    for token, special in zip(own.texts, own.special, strict=True)
                ],
            )
            for text, own in tokens
        ],
        top=[
            TopOfLayer(
                layer=layer, neurons=[Strong(**asdict(own)) for own in found.strongest(layer, top)]
            )
            for layer in found.layers
        ],
        comparison=[_compared(asdict(row)) for row in found.rows],
        notes=list(found.notes),
    )


def _compared(row: dict[str, object]) -> Compared:
    return Compared.model_validate(
        {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in row.items()
            if name in Compared.model_fields
        }
    )


def _binary(values: Floats) -> Response:
    return Response(
        values.astype("<f4").tobytes(),
        media_type="application/octet-stream",
        headers={"X-Shape": ",".join(map(str, values.shape))},
    )
