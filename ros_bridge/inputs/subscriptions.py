"""Subscriptions whose callbacks may reject a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mirage_env.errors import InvalidOptionError
from ros_bridge import _ros
from ros_bridge.inputs.rejected_inputs import RejectedInputs
from ros_bridge.quality_of_service import overridable, stream_quality


def subscribe(
    node: Any,
    kind: Any,
    topic: str,
    callback: Callable[[Any], object],
    refusals: RejectedInputs,
    group: Any = None,
    quality: Any = None,
) -> Any:
    """A subscription whose callback may refuse; refusals are counted by the topic's name (all of ~/start/ by "start").

    Raises:
        InvalidOptionError: a QoS override that is none.
    """
    name = topic.removeprefix("~/").partition("/")[0]

    def received(message: Any) -> None:
        with refusals.watching(name):
            callback(message)

    try:
        return node.create_subscription(
            kind,
            topic,
            received,
            quality or stream_quality(),
            callback_group=group,
            qos_overriding_options=overridable(),
        )
    except (RuntimeError, _ros.ParameterException) as error:
        raise InvalidOptionError(f"qos_overrides of {topic}: {error}") from error
