"""What the server refuses before a request reaches the application, and the headers it adds."""

import threading
import time
from collections import OrderedDict
from urllib.parse import urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuroscope.web.settings import HEALTH, Settings

COOKIE = "neuroscope_token"
_FILES = "/static/"
_SAFE = ("GET", "HEAD", "OPTIONS")
_MINUTE = 60.0  # seconds
_MOST_CLIENTS = 10_000
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    "Referrer-Policy": "no-referrer",  # the address of a page holds prompts
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def refusal(status: int, error: str, remedy: str) -> JSONResponse:
    """Return the answer to a request that is refused."""
    return JSONResponse({"error": error, "remedy": remedy}, status, headers=_HEADERS)


class Guard:
    """Checks host, origin, token, size and rate of each request.

    - Another website could reach a server on this machine under a name of its own (DNS rebinding),
      or send requests from its pages: the headers Host, Origin and Sec-Fetch-Site tell.
    - A body is counted while it is read, as its length may not be declared.
    """

    def __init__(self, app: ASGIApp, settings: Settings):
        self._app = app
        self._settings = settings
        self._rate = _Rate(settings.limits.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        answer = self._refusal(request) or self._login(request)
        if answer is not None:
            await answer(scope, receive, _with_headers(send, scope["path"]))
            return
        await self._limited(scope, receive, _with_headers(send, scope["path"]))

    def _refusal(self, request: Request) -> Response | None:
        headers = request.headers
        if _without_port(headers.get("host", "")).lower() not in self._settings.hosts:
            return refusal(
                403,
                "this server does not answer under this name",
                "use http://127.0.0.1, or start it with --allowed-host NAME",
            )
        if request.method not in _SAFE and not self._is_own_page(headers):
            return refusal(
                403,
                "the request comes from another website",
                "send it from this server's own page; a proxy has to pass the header Host",
            )
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._settings.limits.body:
            return self._too_large()
        client = request.client.host if request.client else ""
        if request.url.path != HEALTH and not self._rate.allows(client):
            return refusal(
                429,
                f"more than {self._settings.limits.requests_per_minute} requests in a minute",
                "wait a minute",
            )
        return None

    def _is_own_page(self, headers: Headers) -> bool:
        """Return whether a request that changes something comes from a page of this server.

        Programs send neither header. A proxy may pass another port in the header Host.
        """
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = headers.get("origin")
        if origin is None:
            return True
        _, _, place = origin.partition("://")
        if self._settings.behind_proxy:
            return _without_port(place).lower() in self._settings.hosts
        return place == headers.get("host")

    def _login(self, request: Request) -> Response | None:
        """Return the answer to a client that does not know the token, or gives it in an address."""
        settings = self._settings
        if not settings.token or request.url.path == HEALTH:
            return None
        given = request.query_params.get("token")
        if given is not None and settings.is_token(given):
            query = urlencode(
                [item for item in request.query_params.multi_items() if item[0] != "token"]
            )
            path = f"/{request.url.path.lstrip('/')}"  # // would begin the name of a host
            answer = RedirectResponse(f"{path}?{query}" if query else path, 303)
            # links of other pages may lead here; requests of other pages are refused
            secure = request.url.scheme == "https"
            answer.set_cookie(COOKIE, given, httponly=True, samesite="lax", secure=secure)
            return answer
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if any(map(settings.is_token, (bearer, request.cookies.get(COOKIE, "")))):
            return None
        return refusal(
            401,
            "this server needs a token",
            "open the address with ?token=…, or send the header Authorization: Bearer …",
        )

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, and run the application unless the body is too large."""
        messages: list[Message] = []
        left, more = self._settings.limits.body, True
        while more:
            messages.append(await receive())
            left -= len(messages[-1].get("body", b""))
            if left < 0:
                await self._too_large()(scope, receive, send)
                return
            more = messages[-1].get("more_body", False)

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, again, send)

    def _too_large(self) -> Response:
        most = self._settings.limits.body
        return refusal(413, f"the request has more than {most:,} bytes", "send fewer prompts")


def _now() -> float:
    return time.monotonic()


class _Rate:
    """Number of requests of each client in the present minute."""

    def __init__(self, most: int):
        self._most = most
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def allows(self, client: str) -> bool:
        """Count a request, and return whether the client may send it."""
        now = _now()
        with self._lock:
            since, count = self._counts.pop(client, (now, 0))
            if now - since >= _MINUTE:
                since, count = now, 0
            self._counts[client] = since, count + 1
            if len(self._counts) > _MOST_CLIENTS:
                self._counts.popitem(last=False)
        return count < self._most


def _without_port(host: str) -> str:
    """Return the name in a header Host."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _with_headers(send: Send, path: str) -> Send:
    """Return a function that sends an answer with the headers of a safe page."""
    caching = "no-cache" if path.startswith(_FILES) else "no-store"  # the browser revalidates files

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", caching)
        await send(message)

    return sending
