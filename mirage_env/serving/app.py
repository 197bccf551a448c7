"""The web application of a world server: HTTP and WebSocket around `Service`, behind one guard."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from mirage_env import __version__
from mirage_env.errors import (
    CacheExistsError,
    CacheNotFoundError,
    MirageError,
    QuotaError,
    ReplicaLostError,
    ServerStoppingError,
    ServingError,
    StoreError,
    WorldNotFoundError,
)
from mirage_env.files import printable
from mirage_env.serving.draining import DrainingService
from mirage_env.serving.origins import is_own_page
from mirage_env.serving.requests import VERBS, Answering
from mirage_env.serving.rollout_sessions import RolloutSessions
from mirage_env.serving.wire import json_object, pack, unpack
from mirage_env.viewer.page_files import page_file

logger = logging.getLogger(__name__)
LARGEST_BODY = 64 * 2**20
"""Bytes of a request."""
AT_ONCE = 64
"""Requests of one connection that are worked on at the same time; more wait in the socket."""
MEDIA_TYPE = "application/x-mirage"
OPEN_TO_ALL = ("/", "/health", "/ready")
"""Paths that ask for no token: the page, whose files lie below `/page/`, asks for one itself."""
PROTOCOL, TOKEN_PROTOCOL = "mirage", "mirage.token."
"""WebSocket protocols that a page offers: pages cannot set headers, so its token (base64url) is in the second."""
HEADERS = [
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
"""Of every answer: the page runs only its own files, and no other page shows it in a frame to lead clicks to it."""
STATUS: tuple[tuple[type[Exception], int], ...] = (
    (QuotaError, 429),
    (WorldNotFoundError, 404),
    (CacheNotFoundError, 404),
    (CacheExistsError, 409),
    (ReplicaLostError, 503),
    (ServerStoppingError, 503),
    (StoreError, 507),
    (MirageError, 400),
)
"""HTTP status by error, the first that fits."""


def make_app(service: DrainingService, host: str, tokens: Sequence[str] = ()) -> Starlette:
    """Make the application.

    Args:
        service: the worlds: a `Service` or a `ReplicatedService`, behind what lets it end gracefully.
        host: the address that it will listen at.
        tokens: who may use it; each has worlds of its own. None: everybody who reaches it, as one.
    """

    @contextlib.asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    async def verb(request: Request) -> Response:
        try:
            body, arrays = _message(await _body(request), request.headers.get("content-type", ""))
            answer = await service.call(request.path_params["verb"], body, arrays, request.scope["owner"])
        except MirageError as error:
            return JSONResponse(_said(error), _status(error))
        return Response(answer, media_type=MEDIA_TYPE)

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope["subprotocols"] else None)
        await _Connection(service, websocket).run()

    async def page(request: Request) -> Response:
        found = page_file(request.path_params.get("name", "index.html"))
        return Response("there is no such file\n", 404) if found is None else Response(found[0], media_type=found[1])

    async def alive(request: Request) -> Response:
        return JSONResponse({"ok": True, "version": __version__})

    async def ready(request: Request) -> Response:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def described(request: Request) -> Response:
        return JSONResponse(openapi())

    routes = [
        Route("/", page),
        Route("/page/{name}", page),
        Route("/health", alive),
        Route("/ready", ready),
        Route("/metrics", metrics),
        Route("/openapi.json", described),
        *RolloutSessions(service, _body).routes,
        Route("/v1/{verb}", verb, methods=["POST"]),
        WebSocketRoute("/v1/socket", socket),
    ]
    app = Starlette(routes=routes, lifespan=running)
    app.add_middleware(Guard, host=host, tokens=tokens)
    return app


class Guard:
    """Refuses foreign pages and strangers before anything of theirs is read; names the owner of what is let in."""

    def __init__(self, app: ASGIApp, host: str, tokens: Sequence[str]) -> None:
        self.app, self.host = app, host
        self.tokens = [token.encode() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin")
        if not is_own_page(origin, headers.get("host", ""), self.host):
            logger.warning("a page of %s was refused", printable(origin or "nowhere"))
            await self._refuse(scope, receive, send, 403, "pages of other origins are refused")
            return
        owner = self._owner(headers.get("authorization", "") or _offered_token(scope.get("subprotocols", ())))
        if owner is None and scope["path"] not in OPEN_TO_ALL and not scope["path"].startswith("/page/"):
            await self._refuse(scope, receive, send, 401, "give a token: Authorization: Bearer TOKEN")
            return
        scope["owner"] = owner or ""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self.app(scope, receive, answer)

    def _owner(self, authorization: str) -> str | None:
        if not self.tokens:
            return owner_of("")
        given = authorization.removeprefix("Bearer ")
        matches = [hmac.compare_digest(given.encode(), token) for token in self.tokens]  # all: time tells nothing
        return owner_of(given) if any(matches) else None

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, status: int, why: str) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": why})  # before it is accepted: HTTP 403
            return
        await JSONResponse({"error": {"code": "Refused", "message": why}}, status)(scope, receive, send)


def owner_of(token: str) -> str:
    """The name under which worlds of a token are kept; that of everybody where no token is asked for."""
    return hashlib.sha256(token.encode()).hexdigest()[:16] if token else "everybody"


def _offered_token(protocols: Sequence[str]) -> str:
    """The token among the WebSocket protocols that a page offers; nothing without."""
    offered = [p.removeprefix(TOKEN_PROTOCOL) for p in protocols if p.startswith(TOKEN_PROTOCOL)]
    try:
        return base64.urlsafe_b64decode(offered[0] + "=" * (-len(offered[0]) % 4)).decode() if offered else ""
    except ValueError:
        return ""


class _Connection:
    """A WebSocket: any number of requests, each answered with its number in front."""

    def __init__(self, service: Answering, websocket: WebSocket) -> None:
        self.service, self.websocket = service, websocket
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            while True:
                await self._room.acquire()
                message = await self.websocket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                task = asyncio.create_task(self._handle(message.get("bytes") or (message.get("text") or "").encode()))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for task in self._tasks:
                task.cancel()

    async def _handle(self, message: bytes) -> None:
        number, answer = 0, pack(_said(ServingError("the server failed; its log says why")))
        try:
            try:
                body, arrays = _message(message, MEDIA_TYPE if message[:4] == b"MRG1" else "application/json")
                number, verb = body.pop("id", 0), body.pop("verb", "")
                if not isinstance(number, int) or not 0 <= number < 2**32 or not isinstance(verb, str):
                    number, kind = 0, type(number).__name__
                    raise ServingError(f"id is no number from 0 to 2^32 - 1 ({kind}), or verb is no text")
                answer = await self.service.call(verb, body, arrays, self.websocket.scope["owner"])
            except MirageError as error:
                answer = pack(_said(error))
            finally:
                with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # whoever asked has left
                    await self.websocket.send_bytes(struct.pack("<I", number) + answer)
        finally:
            self._room.release()


async def _body(request: Request) -> bytes:
    """The body of a request.

    Raises:
        ServingError: it is too long.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_BODY:
            raise ServingError(f"the request has more than {LARGEST_BODY} bytes")
        parts.append(part)
    return b"".join(parts)


def _message(message: bytes, kind: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    return unpack(message) if kind.startswith(MEDIA_TYPE) else (json_object(message or b"{}"), {})


def _said(error: Exception) -> dict[str, Any]:
    return {"error": {"code": type(error).__name__, "message": str(error)}}


def _status(error: Exception) -> int:
    return next(status for kind, status in STATUS if isinstance(error, kind))


def openapi() -> dict[str, Any]:
    """The OpenAPI document of the verbs, from their request models."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    refused = {"description": "what came, what is allowed, what to do"}
    for verb, model in VERBS.items():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
        body = {"$ref": f"#/components/schemas/{model.__name__}"}
        paths[f"/v1/{verb}"] = {
            "post": {
                "operationId": verb,
                "summary": (model.__doc__ or "").splitlines()[0],
                "requestBody": {"content": {"application/json": {"schema": body}, MEDIA_TYPE: {"schema": body}}},
                "responses": {
                    "200": {"description": "a message", "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}},
                    **{str(status): refused for status in sorted({401, 403, *(s for _, s in STATUS)})},
                },
            }
        }
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Mirage world server", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    return json.loads(json.dumps(document))
