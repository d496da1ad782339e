"""Answers: tables in Arrow's format, and errors as JSON with `error` and `remedy`."""

import io
import logging
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from neuroscope.errors import (
    NeuroscopeError,
    Option,
    ResourceError,
    StackError,
    StoreError,
    TrackingError,
)
from neuroscope.web.guard import refusal
from neuroscope.web.jobs import BusyError, Cancelled
from neuroscope.web.kept import GoneError
from neuroscope.web.schemas import ProbeRequest

if TYPE_CHECKING:
    import pandas as pd

ARROW = "application/vnd.apache.arrow.stream"
"""Media type of a table."""

_STATUS: dict[type[NeuroscopeError], int] = {
    GoneError: 404,
    Cancelled: 409,
    StoreError: 409,
    ResourceError: 413,
    StackError: 424,
    TrackingError: 424,
    BusyError: 429,
}
"""Class of error -> status of the answer; others are faults of the request: 400."""
_MOST = 3  # faults of a request that are listed

_log = logging.getLogger("neuroscope")


def add_answers(app: FastAPI) -> None:
    """Let an application answer errors with `error` and `remedy`."""
    app.add_exception_handler(NeuroscopeError, _neuroscope_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unforeseen)


def arrow_bytes(frame: "pd.DataFrame") -> bytes:
    """Return a table as a stream of Arrow's IPC format."""
    import pyarrow as pa

    table, stream = pa.Table.from_pandas(frame, preserve_index=False), io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


async def _neuroscope_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, NeuroscopeError)
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 400)
    known = [option for option in error.options if option.name in ProbeRequest.model_fields]
    choices = [f"{option.purpose} ({_spelled(option)})" for option in known]
    return refusal(status, error.problem, ", or ".join(filter(None, [*choices, error.remedy])))


def _spelled(option: Option) -> str:
    """Return a setting as it is written in the body of a request."""
    value = str(option.value).lower() if isinstance(option.value, bool) else repr(option.value)
    return f'"{option.name}": {value}'


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [
        "the body is not JSON"
        if fault["type"] == "json_invalid"
        else f"{'.'.join(map(str, fault['loc'][1:])) or 'the body'}: {fault['msg']}"
        for fault in error.errors()
    ]
    more = f"; and {len(faults) - _MOST} more" if len(faults) > _MOST else ""
    return refusal(422, f"{'; '.join(faults[:_MOST])}{more}", "see /api for what a request needs")


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    answer = refusal(error.status_code, str(error.detail), "see /api for the requests that exist")
    answer.headers.update(error.headers or {})
    return answer


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    _log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
    return refusal(500, "the server failed unexpectedly", "see its log, and report what it says")
