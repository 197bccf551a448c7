"""Arguments that all environments take, checked once."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from mirage_env.envs.contact import CONTACTS, Body, Contact
from mirage_env.errors import InvalidOptionError, UnknownArgumentError
from mirage_env.interfaces import StartViews
from mirage_env.spaces.actions import Control, make_control
from mirage_env.spaces.observations import EXTRAS
from mirage_env.tasks import Guard, Task, task_from
from mirage_env.tasks.stop_action import StopControl


@dataclass(frozen=True)
class EnvArguments:
    """Arguments for actions, observations and the task of an environment.

    Attributes:
        control: one of `actions.CONTROLS`.
        max_translation: metres per chunk and axis that an action of 1 means.
        max_rotation: radians per chunk and axis that an action of 1 means.
        observe: additions to the observation: `"readout"`, `"observed"`, `"depth"`.
        info_frames: put whole chunks into `info`.
        render_mode: `"rgb_array"` (last frame) or `"rgb_array_list"` (all frames since the last `render`).
        task: what there is to do (a `tasks.Task`, or a name out of `tasks.TASKS`); None: nothing.
        guard: what leaving the memory costs (`tasks.Guard`); None: nothing.
        contact: what obstacles do to a body that carries the camera (module `contact`): `"none"`; `"stop"`: they end
            the motion of the step, but not its turn; `"slide"`: the body slides along them. `info["contact"]` tells
            whether it did not get where the action asked for.
        body_radius: metres of the body, an upright cylinder around the camera.
        body_height: metres above the floor; what hangs higher is passed under.
        contact_cost: taken from the reward of a step with contact.

    Raises:
        InvalidOptionError: a value that is not on offer.
    """

    RENDER_MODES: ClassVar[tuple[str, ...]] = ("rgb_array", "rgb_array_list")

    control: str = "relative_pose"
    max_translation: float = 1.0
    max_rotation: float = 0.7
    observe: Sequence[str] = ()
    info_frames: bool = False
    render_mode: str | None = None
    task: Task | str | None = None
    guard: Guard | None = None
    contact: Contact = "none"
    body_radius: float = 0.2
    body_height: float = 1.5
    contact_cost: float = 0.0

    @staticmethod
    def of(values: Mapping[str, Any]) -> EnvArguments:
        """Build arguments from names and values.

        Raises:
            UnknownArgumentError: an unknown name.
            InvalidOptionError: a value that is not on offer.
        """
        known = [field.name for field in fields(EnvArguments)]
        if unknown := sorted(set(values) - set(known)):
            # Python's own words come first: libraries that try arguments look for them in the message.
            raise UnknownArgumentError(
                f"got an unexpected keyword argument {unknown[0]!r} (unknown arguments {unknown}); those of every "
                f"environment are {known}, and what a task takes is given to the task: task=PointNav(radius=0.3)"
            )
        return EnvArguments(**values)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.extras if name not in EXTRAS]:
            raise InvalidOptionError(f"observe has unknown entries {unknown}; choose among {list(EXTRAS)}")
        if self.render_mode is not None and self.render_mode not in self.RENDER_MODES:
            raise InvalidOptionError(
                f"render_mode is {self.render_mode!r}; choose None or one of {list(self.RENDER_MODES)}"
            )
        if not (self.guard is None or isinstance(self.guard, Guard)):
            raise InvalidOptionError(f"guard is {self.guard!r}; give a mirage_env.tasks.Guard, or None")
        if self.contact not in CONTACTS:
            raise InvalidOptionError(f"contact is {self.contact!r}; choose one of {', '.join(CONTACTS)}")
        if not 0.0 <= self.contact_cost < float("inf") or (self.contact == "none" and self.contact_cost):
            raise InvalidOptionError(
                f"contact_cost is {self.contact_cost} with contact={self.contact!r}; give a cost of 0 or more (it is "
                "subtracted) and contact='stop' or 'slide'"
            )
        _ = self.body
        if self.parsed_task.stop == "action" and self.control != "relative_pose":
            raise InvalidOptionError(
                f"{type(self.parsed_task).__name__} with stop='action' needs control='relative_pose', whose action can "
                f"be longer by one number; control is {self.control!r}: use stop='still'"
            )

    @property
    def extras(self) -> tuple[str, ...]:
        """Names in `observe`, as a tuple also where it is one name."""
        return (self.observe,) if isinstance(self.observe, str) else tuple(self.observe)

    @property
    def body(self) -> Body:
        """Body that carries the camera."""
        return Body(self.body_radius, self.body_height)

    @property
    def parsed_task(self) -> Task:
        """Task of `task`, also where that is a name or None."""
        return task_from(self.task)

    def control_for(self, frames: int) -> Control:
        """Build the control for chunks of `frames` new frames.

        Raises:
            InvalidOptionError: an unknown name, or a size out of range.
        """
        control = make_control(self.control, frames, self.max_translation, self.max_rotation)
        return StopControl(control) if self.parsed_task.stop == "action" else control


def imported_start_views(name: str) -> StartViews:
    """The function that `"module:function"` names.

    Raises:
        InvalidOptionError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidOptionError(f"start_views is {name!r}, which is no 'module:function': {error}") from error
    if not callable(found):
        raise InvalidOptionError(f"start_views is {name!r}, which is a {type(found).__name__}; name a function")
    views: StartViews = found
    return views
