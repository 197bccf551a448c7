"""The world node, and on request a policy that drives it and RViz.

`ros2 launch mirage_env mirage.launch.py rviz:=true policy:=orbit`
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition, UnlessCondition
from launch.substitutions import EqualsSubstitution, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = {
    "params": (
        PathJoinSubstitution([FindPackageShare("mirage_env"), "config", "mirage.yaml"]),
        "parameter file of the nodes",
    ),
    "namespace": ("", "namespace of the nodes"),
    "frame_prefix": ("", "put before every frame, such as robot1/"),
    "cmd_vel": ("cmd_vel", "topic the world node takes velocities from"),
    "policy": ("", "name of a policy that drives the world; none if empty"),
    "rviz": ("false", "whether to open RViz"),
    "use_sim_time": ("false", "whether to take the time from /clock"),
}
"""Name to default and description."""


def generate_launch_description() -> LaunchDescription:
    namespace = LaunchConfiguration("namespace")
    prefix = {"frame_prefix": LaunchConfiguration("frame_prefix")}
    common = {"use_sim_time": LaunchConfiguration("use_sim_time")}
    arguments = [DeclareLaunchArgument(n, default_value=value, description=d) for n, (value, d) in ARGUMENTS.items()]
    return LaunchDescription(
        [
            *arguments,
            Node(
                package="mirage_env",
                executable="world_node",
                name="mirage",
                namespace=namespace,
                parameters=[LaunchConfiguration("params"), common, prefix],
                remappings=[("cmd_vel", LaunchConfiguration("cmd_vel"))],
                output="screen",
            ),
            Node(
                package="mirage_env",
                executable="policy_node",
                name="mirage_policy",
                namespace=namespace,
                parameters=[LaunchConfiguration("params"), common, prefix, {"policy": LaunchConfiguration("policy")}],
                remappings=[("cmd_vel", LaunchConfiguration("cmd_vel"))],
                condition=UnlessCondition(EqualsSubstitution(LaunchConfiguration("policy"), "")),
                output="screen",
            ),
            Node(
                package="rviz2",
                executable="rviz2",
                name="rviz2",
                arguments=["-d", PathJoinSubstitution([FindPackageShare("mirage_env"), "rviz", "mirage.rviz"])],
                condition=IfCondition(LaunchConfiguration("rviz")),
            ),
        ]
    )
