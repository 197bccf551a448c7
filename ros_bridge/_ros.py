"""Lazy import of rclpy and the message packages.

`from ros_bridge import _ros` works everywhere; `_ros.LifecycleNode`, `_ros.Image` and the like are looked up on first
use. Where there is no ROS they raise `MissingPackageError`, which says what to install.
"""

from __future__ import annotations

import importlib
from typing import Any

from mirage_env.errors import MissingPackageError

HELP = (
    "source a ROS 2 install (`source /opt/ros/jazzy/setup.bash`), with the Python it was built for; or, on a machine "
    "without ROS, run `pip install 'mirage-env[ros]'` in a virtual environment of its own"
)

_MODULES: dict[str, tuple[str, ...]] = {
    "rclpy.action": ("ActionServer", "CancelResponse", "GoalResponse"),
    "rclpy.clock": ("Clock", "ClockType", "JumpThreshold"),
    "rclpy.context": ("Context",),
    "rclpy.duration": ("Duration",),
    "rclpy.exceptions": ("ParameterException",),
    "rclpy.executors": (
        "ExternalShutdownException",
        "InvalidHandle",
        "MultiThreadedExecutor",
        "SingleThreadedExecutor",
    ),
    "rclpy.callback_groups": ("MutuallyExclusiveCallbackGroup", "ReentrantCallbackGroup"),
    "rclpy.lifecycle": ("LifecycleNode", "LifecycleState", "TransitionCallbackReturn"),
    "rclpy.node": ("Node",),
    "rclpy.parameter": ("Parameter",),
    "rclpy.qos": ("DurabilityPolicy", "HistoryPolicy", "QoSProfile", "ReliabilityPolicy", "qos_profile_sensor_data"),
    "rclpy.qos_overriding_options": ("QoSOverridingOptions",),
    "rclpy.serialization": ("deserialize_message", "serialize_message"),
    "rclpy.signals": ("SignalHandlerOptions",),
    "rclpy.time": ("Time",),
    "builtin_interfaces.msg": (),
    "diagnostic_msgs.msg": ("DiagnosticArray", "DiagnosticStatus", "KeyValue"),
    "geometry_msgs.msg": ("PoseStamped", "TransformStamped", "Twist", "TwistStamped"),
    "nav_msgs.msg": ("OccupancyGrid", "Odometry", "Path"),
    "rcl_interfaces.msg": (
        "FloatingPointRange",
        "IntegerRange",
        "ParameterDescriptor",
        "ParameterType",
        "SetParametersResult",
    ),
    "sensor_msgs.msg": ("CameraInfo", "CompressedImage", "Image", "LaserScan", "PointCloud2"),
    "std_msgs.msg": ("Bool", "Empty", "Float32", "String", "UInt32"),
    "std_srvs.srv": ("SetBool", "Trigger"),
}
"""What the bridge uses, by the module it comes from."""
_HOME = {name: module for module, names in _MODULES.items() for name in names}
NAMES = ("rclpy", *_HOME)
"""What can be asked for."""


def require_ros() -> None:
    """See that the real rclpy and the message packages are here.

    Raises:
        MissingPackageError: they are not; the message says what is missing and how to get it.
    """
    rclpy = _import("rclpy")
    # A package on PyPI has the name and nothing else.
    if not (hasattr(rclpy, "init") and hasattr(_import("rclpy.node"), "Node")):
        raise MissingPackageError(f"{getattr(rclpy, '__file__', 'rclpy')} is not the rclpy of ROS 2; {HELP}")
    for module in _MODULES:
        _import(module)


def optional_type(name: str) -> Any | None:
    """The class of a type such as nav2_msgs/action/FollowPath; None where its package is not installed, or lacks it."""
    package, _, kind = name.rpartition("/")
    try:
        return getattr(importlib.import_module(package.replace("/", ".")), kind)
    except (ImportError, AttributeError):
        return None


def tf_message() -> Any | None:
    """The class `tf2_msgs/msg/TFMessage`; None where that package is not installed (the wheels lack it)."""
    return optional_type("tf2_msgs/msg/TFMessage")


def message_type(name: str) -> Any:
    """The class of a message type, such as sensor_msgs/msg/Image.

    Raises:
        MissingPackageError: it is not installed.
    """
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(_import(f"{package}.msg"), kind)
    except AttributeError as error:
        raise MissingPackageError(f"the package {package} has no message {kind}; {HELP}") from error


def __getattr__(name: str) -> Any:
    if name.startswith("__") or name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_ros()
    value = _import("rclpy") if name == "rclpy" else getattr(_import(_HOME[name]), name)
    globals()[name] = value
    return value


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(f"{module} cannot be imported ({error}); {HELP}") from error
