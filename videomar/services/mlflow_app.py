"""MLflow's server behind one password, with figures for Prometheus: `mlflow server --app-name videomar`.

MLflow finds it by an entry point in pyproject.toml. Its own app with accounts, `basic-auth`, needs one more
package, a database and a slow hash for each request; a checkout has one user, and one password is enough.
"""

import base64
import binascii
import hmac
import json
import os
import time
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from mlflow.server import app as pages
from mlflow.server.fastapi_app import app as mlflow_app
from prometheus_client import CONTENT_TYPE_LATEST, Histogram, generate_latest
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from videomar.environment import MLFLOW_PASSWORD, USER
from videomar.errors import VideomarError

_HEALTH = "/health"
_POLICY_VIOLATION = 1008  # RFC 6455: how a web socket is closed that may not be opened
# What a browser remembers of MLflow's pages, by their own keys, before its user changes anything. They are
# those for training, with models in the navigation; the assistant, which needs a language model, stays closed
# until it is asked for; and the note that MLflow collects usage data, which it does not here, counts as read.
_AT_FIRST = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.telemetry.info.alert.dismissed_v1": "true",
}
_REMEMBER = """<script>
for (const [key, value] of Object.entries(%s))
    if (localStorage.getItem(key) === null) localStorage.setItem(key, value)
</script></head>"""


class RequirePassword:
    """Lets requests through that carry the password; the health check alone needs none."""

    def __init__(self, app: ASGIApp, password: str) -> None:
        self._app = app
        self._expected = f"{USER}:{password}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401, upon which a browser asks for user and password."""
        if scope["type"] == "lifespan" or scope["path"] == _HEALTH or self._is_signed(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            asks = {"WWW-Authenticate": 'Basic realm="videomar", charset="UTF-8"'}
            refusal = PlainTextResponse("expected user and password; `make up` names them", 401, asks)
            await refusal(scope, receive, send)

    def _is_signed(self, scope: Scope) -> bool:
        kind, _, word = Headers(scope=scope).get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(word, validate=True)
        except (binascii.Error, ValueError):
            return False
        return kind.lower() == "basic" and hmac.compare_digest(given, self._expected)


class MeasureRequests:
    """Counts requests and their seconds, by method and status."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._seconds = Histogram("mlflow_request_seconds", "Seconds until the answer", ["method", "status"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note how long its answer took to begin."""
        start = time.perf_counter()

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = self._seconds.labels(scope["method"], str(message["status"]))
                seconds.observe(time.perf_counter() - start)
            await send(message)

        await self._app(scope, receive, note)


def create_app() -> FastAPI:
    """MLflow's app behind the password.

    Raises:
        VideomarError: there is no password, without which every account of this machine could use it.
    """
    password = os.environ.get(MLFLOW_PASSWORD)
    if not password:
        raise VideomarError(f"{MLFLOW_PASSWORD}: got none, expected a password; start it by `make up`")
    start_page = (Path(str(pages.static_folder)) / "index.html").read_text("utf-8")
    start_page = start_page.replace("</head>", _REMEMBER % json.dumps(_AT_FIRST), 1)

    def show_start_page(_: Request) -> Response:
        return HTMLResponse(start_page)

    def show_figures(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    # In front: MLflow's last route takes all that is left.
    mlflow_app.router.routes[:0] = [Route("/", show_start_page), Route("/metrics", show_figures)]
    mlflow_app.add_middleware(MeasureRequests)
    mlflow_app.add_middleware(RequirePassword, password=password)  # added last, so it comes first
    return mlflow_app
