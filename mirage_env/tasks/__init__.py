"""Tasks: what there is to do in a world. Both worlds take the same ones; `docs/tasks.md` defines them.

A task of one's own is a subclass of `Task` with an `evaluate`, given as `gymnasium.make(..., task=MyTask())`.
"""

from __future__ import annotations

from mirage_env.errors import InvalidOptionError
from mirage_env.tasks.base import FloorPlan, NoTask, Start, Step, Task, Verdict, World
from mirage_env.tasks.explore import Explore
from mirage_env.tasks.guard import Guard
from mirage_env.tasks.image_nav import ImageNav
from mirage_env.tasks.image_reward import ImageReward
from mirage_env.tasks.object_nav import ObjectNav
from mirage_env.tasks.point_nav import PointNav
from mirage_env.tasks.revisit import Revisit

__all__ = [
    "TASKS",
    "Explore",
    "FloorPlan",
    "Guard",
    "ImageNav",
    "ImageReward",
    "NoTask",
    "ObjectNav",
    "PointNav",
    "Revisit",
    "Start",
    "Step",
    "Task",
    "Verdict",
    "World",
    "task_from",
]

TASKS: dict[str, type[Task]] = {
    "explore": Explore,
    "point_nav": PointNav,
    "image_nav": ImageNav,
    "object_nav": ObjectNav,
    "revisit": Revisit,
}
"""Tasks by name."""


def task_from(value: Task | str | None) -> Task:
    """The argument `task` of an environment: a task, the name of one, or nothing.

    Raises:
        InvalidOptionError: an unknown name, or something that is no task.
    """
    if value is None:
        return NoTask()
    if isinstance(value, Task):
        return value
    if isinstance(value, str) and value in TASKS:
        return TASKS[value]()
    raise InvalidOptionError(
        f"task is {value!r}; give one of {', '.join(TASKS)}, or an object of a subclass of mirage_env.tasks.Task"
    )
