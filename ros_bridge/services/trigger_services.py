"""Standard services, each with a topic that does the same for callers without services."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ros_bridge import _ros
from ros_bridge.inputs.rejected_inputs import REFUSED, RejectedInputs


@dataclass(frozen=True)
class Control:
    """A command of a node that is offered as a service and as a topic.

    Attributes:
        name: of the service `~/name`; its topic is `~/name_cmd`.
        topic: message type of the topic; with `std_msgs/Bool` the service is a SetBool, else a Trigger.
        act: takes what the topic (or SetBool) says, None from a Trigger; gives a sentence on what was done.
    """

    name: str
    topic: Any
    act: Callable[[Any], str]


def offer(node: Any, control: Control, refusals: RejectedInputs, group: Any) -> tuple[Any, Any]:
    """Offer a control as a service and a topic, which are returned; refusals are counted by the control's name.

    Both are in the callback group `group`: a control may take as long as the chunk that is being generated.
    """

    def act(value: Any) -> tuple[bool, str]:
        try:
            return True, control.act(value)
        except REFUSED as error:
            refusals.refuse(control.name, str(error))
            return False, str(error)

    def called(request: Any, response: Any) -> Any:
        response.success, response.message = act(getattr(request, "data", None))
        return response

    def told(message: Any) -> None:
        done, text = act(getattr(message, "data", None))
        if done:
            node.get_logger().info(text)

    service = _ros.SetBool if control.topic is _ros.Bool else _ros.Trigger
    return (
        node.create_service(service, f"~/{control.name}", called, callback_group=group),
        node.create_subscription(control.topic, f"~/{control.name}_cmd", told, 5, callback_group=group),
    )
