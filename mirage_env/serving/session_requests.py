"""Requests of sessions, as vLLM-Omni's `world_model_env` mode has them (`rollout_sessions.py`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from mirage_env.serving.requests import Request


class CreateSession(Request):
    """Create a session (vLLM-Omni); the model is that of the server, whatever is asked for."""

    model: str
    mode: Literal["world_model_env"] = "world_model_env"


class Seen(BaseModel):
    """Observation of a session's step (vLLM-Omni)."""

    images: dict[str, list[Any] | str] | None = None
    state: list[float] | None = None
    prompt: str = Field("", max_length=10_000)
    extra: dict[str, Any] = Field(default_factory=dict)


class Done(BaseModel):
    """Action of a session's step (vLLM-Omni): the six numbers of `step`, as `joint_positions`."""

    joint_positions: Annotated[list[float], Field(min_length=6, max_length=6)]


class SessionStep(BaseModel):
    """Walk on in a session by one chunk (vLLM-Omni)."""

    step_id: int = Field(ge=0)
    observation: Seen
    action: Done
    use_session_context: Literal[True] = True
