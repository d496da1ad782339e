"""Pages: the shell of the interface, its files, and the list of the requests of the API."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from neuroscope.web.settings import Settings

_HERE = Path(__file__).parent
_VIEWS = (
    *("/", "/m/{path:path}", "/atlas", "/atlas/{path:path}"),
    *("/drift", "/drift/{path:path}", "/flows", "/flows/{path:path}"),
    *("/sessions", "/sessions/{path:path}"),
)
"""Addresses of the views; scripts in the page draw what they name."""


def add_pages(app: FastAPI, settings: Settings) -> None:
    """Add the pages to an application."""
    templates = Jinja2Templates(_HERE / "templates")
    models = settings.models or (settings.default_model,)

    def view(request: Request) -> HTMLResponse:
        return templates.TemplateResponse(request, "index.html", {"models": models})

    for address in _VIEWS:
        app.add_api_route(address, view, include_in_schema=False, response_class=HTMLResponse)

    @app.get("/api", include_in_schema=False, response_class=HTMLResponse)
    def api(request: Request) -> HTMLResponse:
        document = app.openapi()
        operations, types = list(_operations(document)), _types(document)
        context = {"operations": operations, "types": types}
        return templates.TemplateResponse(request, "api.html", context)

    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the requests of an OpenAPI document as the page shows them."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {})
            answers = operation["responses"].get("200", {}).get("content", {})
            yield {
                "method": method.upper(),
                "path": path,
                "text": operation.get("description", operation.get("summary", "")),
                "parameters": operation.get("parameters", []),
                "body": _fields(document, body),
                "answer": _fields(document, answers),
                "media": ", ".join(answers),
            }


def _types(document: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Return the fields of each type to which fields of others refer."""
    schemas = document["components"]["schemas"]
    named = {
        name.rpartition("/")[2]
        for schema in schemas.values()
        for own in schema.get("properties", {}).values()
        if (name := own.get("items", own).get("$ref", ""))
    }
    return {name: _properties(schemas[name]) for name in sorted(named) if "Error" not in name}


def _fields(document: dict[str, Any], content: dict[str, Any]) -> list[dict[str, str]]:
    """Return the fields of a JSON body: name, type and meaning."""
    schema = content.get("application/json", {}).get("schema", {})
    schema = schema.get("items", schema)
    name = schema.get("$ref", "").rpartition("/")[2]
    return _properties(document["components"]["schemas"].get(name, {}))


def _properties(schema: dict[str, Any]) -> list[dict[str, str]]:
    """Return the fields of a type: name, type and meaning with the default."""
    return [
        {
            "name": field,
            "type": _type(own),
            "meaning": " ".join(filter(None, [own.get("description", ""), _default(own)])),
        }
        for field, own in schema.get("properties", {}).items()
    ]


def _default(schema: dict[str, Any]) -> str:
    """Return what a field is if it is left out."""
    return "" if schema.get("default") in (None, "") else f"[default: {schema['default']}]"


def _type(schema: dict[str, Any]) -> str:
    """Return the type of a field in words."""
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return str(schema.get("type") or schema.get("$ref", "any").rpartition("/")[2])
