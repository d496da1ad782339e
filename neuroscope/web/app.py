"""The application: its routes, its pages and what protects them."""

from importlib.metadata import version

from fastapi import FastAPI

from neuroscope.web.answers import add_answers
from neuroscope.web.atlas_api import atlas_routes
from neuroscope.web.drift_api import drift_routes
from neuroscope.web.flow_api import FlowServer, flow_routes
from neuroscope.web.guard import Guard
from neuroscope.web.kept import KeptProbes
from neuroscope.web.pages import add_pages
from neuroscope.web.probe_api import probe_routes
from neuroscope.web.schemas import Health
from neuroscope.web.session_api import session_routes
from neuroscope.web.settings import HEALTH, Settings
from neuroscope.web.worker import ModelWorker


def create_app(
    settings: Settings = Settings(),  # noqa: B008  a frozen value
    flows: FlowServer | None = None,
) -> FastAPI:
    """Return the application of the interface.

    >>> uvicorn.run(create_app(Settings(port=5090)), host="127.0.0.1", port=5090)

    Args:
        settings: whom it serves, with which models, and within which limits.
        flows: server on which studies can be started.
    """
    app = FastAPI(
        title="neuroscope",
        description="What the neurons of a transformer language model do.",
        version=version("neuroscope"),
        docs_url=None,  # their pages fetch scripts from other hosts
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    worker, kept = ModelWorker(settings), KeptProbes(settings.limits.kept_bytes)
    app.state.worker = worker
    app.include_router(probe_routes(settings, worker, kept))
    app.include_router(session_routes(kept))
    app.include_router(atlas_routes(settings, worker))
    app.include_router(drift_routes())
    app.include_router(flow_routes(settings, flows))

    @app.get(HEALTH, tags=["health"])
    async def health() -> Health:
        """Return whether the server works, and what it holds."""
        return Health(
            status="ok", version=app.version, models=worker.loaded, waiting=worker.waiting
        )

    add_pages(app, settings)
    add_answers(app)
    app.add_middleware(Guard, settings=settings)
    return app
