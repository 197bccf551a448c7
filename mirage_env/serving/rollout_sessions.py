"""Sessions as vLLM-Omni's `world_model_env` mode has them: create, step, reset, close and status over JSON.

Its clients (github.com/vllm-project/vllm-omni, entrypoints/openai/protocol/rollout.py, RFC 3747) find the routes
`/v1/realtime/sessions...` here. The first step opens a world from the observation, or from the seed in its `extra`;
every step walks one chunk. Sessions are as long as the process; the world of one is on the server like any other.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mirage_env.errors import MirageError, ServingError
from mirage_env.serving.requests import Answering, checked
from mirage_env.serving.session_requests import CreateSession, SessionStep
from mirage_env.serving.wire import json_object, unpack

MOST_SESSIONS = 4096
"""Of a server; the oldest closed ones are forgotten first."""


@dataclass(eq=False)
class _Session:
    owner: str
    world: str | None = None
    committed: int = -1
    closed: bool = False
    busy: bool = False
    created: float = field(default_factory=time.time)


class RolloutSessions:
    """The sessions of a server, and their routes."""

    def __init__(self, service: Answering, body: Any) -> None:
        self._service, self._body = service, body
        self._sessions: dict[str, _Session] = {}

    @property
    def routes(self) -> list[Route]:
        """Routes of the application."""
        one = "/v1/realtime/sessions/{session}"
        return [
            Route("/v1/realtime/sessions", self._create, methods=["POST"]),
            Route(f"{one}/step", self._step, methods=["POST"]),
            Route(f"{one}/reset", self._reset, methods=["POST"]),
            Route(f"{one}/close", self._close, methods=["POST"]),
            Route(f"{one}/status", self._status, methods=["GET"]),
        ]

    async def _create(self, request: Request) -> Response:
        try:
            asked = checked(CreateSession, json_object(await self._body(request) or b"{}"))
        except MirageError as error:
            return JSONResponse({"detail": str(error)}, 400)
        for name in [name for name, session in self._sessions.items() if session.closed][: -MOST_SESSIONS // 2]:
            del self._sessions[name]
        if len(self._sessions) >= MOST_SESSIONS:
            return JSONResponse({"detail": f"{MOST_SESSIONS} sessions are open; close some"}, 503)
        name, session = uuid4().hex, _Session(request.scope["owner"])
        self._sessions[name] = session
        return JSONResponse({"session_id": name, "mode": asked.mode, "created_at": session.created})

    async def _step(self, request: Request) -> Response:
        begin, name = time.perf_counter(), request.path_params["session"]
        session = self._found(request)
        try:
            asked = checked(SessionStep, json_object(await self._body(request) or b"{}"))
        except MirageError as error:
            return JSONResponse({"detail": str(error)}, 422)
        if session is None:
            return _failed(asked.step_id, -1, "session_not_found", f"there is no session {name!r}", 404)
        if session.closed:
            return _failed(asked.step_id, session.committed, "session_closed", f"session {name!r} is closed", 410)
        expected = session.committed + 1
        if session.busy or asked.step_id != expected:
            code = "step_already_committed" if asked.step_id < expected else "step_out_of_order"
            return _failed(asked.step_id, session.committed, code, f"step {expected} is next, and one at a time", 400)
        session.busy = True
        try:
            if session.world is None:
                session.world = await self._opened(asked, session.owner)
            body = {"world": session.world, "action": asked.action.joint_positions, "want": {"frames": "raw"}}
            header, arrays = unpack(await self._service.call("step", body, {}, session.owner))
        except MirageError as error:
            wrong = isinstance(error, ValueError | ServingError)
            code, status = ("invalid_request", 400) if wrong else ("inference_error", 200)
            return _failed(asked.step_id, session.committed, code, str(error), status)
        finally:
            session.busy = False
        session.committed = asked.step_id
        about = _metadata(session.committed, int(header["memory_bytes"]), 1e3 * (time.perf_counter() - begin), 1)
        seen = _tensor(arrays["frames"])
        return JSONResponse(
            {"step_id": asked.step_id, "next_observation": seen, "model_metadata": about, "error": None}
        )

    async def _reset(self, request: Request) -> Response:
        return await self._ended(request, closed=False)

    async def _close(self, request: Request) -> Response:
        return await self._ended(request, closed=True)

    async def _status(self, request: Request) -> Response:
        name, session = request.path_params["session"], self._found(request)
        if session is None:
            return _missing(name)
        count = session.committed + 1
        return JSONResponse(
            {"session_id": name, "committed_step_id": count - 1, "context_length": count, "closed": session.closed}
        )

    async def _ended(self, request: Request, closed: bool) -> Response:
        """Close the world of a session, and with `closed` the session."""
        name, session = request.path_params["session"], self._found(request)
        if session is None:
            return _missing(name)
        if session.closed and not closed:
            return JSONResponse({"detail": f"session {name!r} is closed"}, 410)
        world, session.world, session.committed = session.world, None, -1
        session.closed = closed
        if world is not None:
            await self._service.call("close", {"world": world}, {}, session.owner)
        said: dict[str, Any] = {"session_id": name}
        return JSONResponse({**said, "closed": True} if closed else {**said, "committed_step_id": -1})

    def _found(self, request: Request) -> _Session | None:
        session = self._sessions.get(request.path_params["session"])
        return session if session is not None and session.owner == request.scope["owner"] else None

    async def _opened(self, asked: SessionStep, owner: str) -> str:
        seen = asked.observation
        body: dict[str, Any] = {"want": {"frames": "none"}} | ({"prompt": seen.prompt} if seen.prompt else {})
        body |= {"seed": seen.extra["seed"]} if "seed" in seen.extra else {}
        arrays = {"image": _picture(next(iter(seen.images.values())))} if seen.images else {}
        return str(unpack(await self._service.call("open", body, arrays, owner))[0]["world"])


def _picture(given: Any) -> NDArray[np.uint8]:
    """An image of an observation: nested lists [H, W, 3] of 0 to 255.

    Raises:
        ServingError: something else.
    """
    try:
        array = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise ServingError(f"an image is no list of rows of pixels: {error}") from error
    if array.ndim != 3 or array.shape[2] != 3 or not ((array >= 0.0) & (array <= 255.0)).all():
        raise ServingError(f"an image has the shape {array.shape}; give [H, W, 3] of 0 to 255")
    return array.astype(np.uint8)


def _tensor(frames: NDArray[np.uint8]) -> dict[str, Any]:
    video = base64.b64encode(frames.tobytes()).decode()
    return {"video": video, "shape": frames.shape, "dtype": str(frames.dtype), "encoding": "base64_raw_tensor"}


def _metadata(committed: int, nbytes: int | None = None, milliseconds: float = 0.0, steps: int = 0) -> dict[str, Any]:
    return {
        "latency_ms": round(milliseconds, 2),
        "steps_generated": steps,
        "context_length": committed + 1,
        "committed_step_id": committed,
        "session_memory_bytes": nbytes,
        "uncertainty": None,
    }


def _failed(step: int, committed: int, code: str, message: str, status: int) -> Response:
    error = {"code": code, "message": message, "step_id": step, "committed_step_id": committed}
    about = _metadata(committed)
    answer = {"step_id": step, "next_observation": None, "model_metadata": about, "error": error}
    return JSONResponse(answer, status)


def _missing(name: str) -> Response:
    return JSONResponse({"detail": f"session {name!r} not found"}, 404)
