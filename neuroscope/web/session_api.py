"""Requests for sessions: probes that are kept in MLflow."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from neuroscope.errors import ResourceError
from neuroscope.reporting.run_reader import RunReader
from neuroscope.reporting.tracking import Tracker
from neuroscope.studies.probe.picture import session_picture
from neuroscope.studies.probe.sessions import (
    KIND,
    Session,
    list_sessions,
    read_session,
    save_session,
)
from neuroscope.web.kept import KeptProbes
from neuroscope.web.recorded import check_recorded
from neuroscope.web.schemas import REFUSALS, Saved, SessionItem, SessionRequest

_MOST_VALUES = 500_000  # of the watched neurons at all tokens
Format = Literal["json", "csv", "parquet", "png"]
_MEDIA: dict[Format, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "png": "image/png",
}


def session_routes(kept: KeptProbes) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/sessions", tags=["sessions"], responses=REFUSALS)

    @routes.post("")
    def save(request: SessionRequest) -> Saved:
        """Keep a probe as a run in MLflow."""
        found = kept[request.id]
        values = len(request.watch) * sum(len(own) for own in found.activations.tokens)
        if values > _MOST_VALUES:
            raise ResourceError(
                f"the watched neurons have {values:,} values at the tokens of the prompts",
                remedy=f"watch fewer neurons; at most {_MOST_VALUES:,} values are kept",
            )
        return Saved(
            run_id=save_session(Tracker.open(), found, request.watch, request.note, request.view)
        )

    @routes.get("")
    def sessions(search: Annotated[str, Query(max_length=500)] = "") -> list[SessionItem]:
        """List the sessions, newest first."""
        found = list_sessions(RunReader.connect(), search)
        return [SessionItem(**asdict(entry)) for entry in found]

    @routes.get("/{run_id}")
    def session(run_id: str) -> dict[str, Any]:
        """Return a session with the values of the watched neurons."""
        reader = check_recorded(KIND, run_id)
        return {**asdict(read_session(reader, run_id)), "links": reader.links(run_id)}

    @routes.get("/{run_id}/export", response_class=Response)
    def export(run_id: str, format: Format = "json") -> Response:
        """Return a session as JSON with a version, as a table of its neurons, or as a picture."""
        found = read_session(check_recorded(KIND, run_id), run_id)
        name = f'attachment; filename="session-{run_id[:8]}.{format}"'
        headers = {"Content-Disposition": name}
        return Response(_content(found, format), media_type=_MEDIA[format], headers=headers)

    return routes


def _content(session: Session, format: Format) -> str | bytes:
    if format == "json":
        return session.to_json()
    if format == "png":
        return session_picture(session)
    frame = session.to_frame()
    if format == "csv":
        return frame.to_csv(index=False)
    content: bytes = frame.to_parquet(index=False)
    return content
