"""ROS message types that the wheels lack, generated from their definitions with the wheels' own rosidl and a compiler.

`shared_types()` gives packages to put on PYTHONPATH: those of `DEFINITIONS`. It takes ten seconds once and needs gcc;
`needs_generated_types` skips what does where one of the two is missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import io
import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest
from repository import ROOT
from ros_process import ros_is_installed

PREFIX = Path(sys.prefix)
DEFINITIONS: dict[str, dict[str, str]] = {
    "tf2_msgs": {"msg/TFMessage.msg": "geometry_msgs/TransformStamped[] transforms"},
    "bond": {
        "msg/Status.msg": """
            std_msgs/Header header
            string id
            string instance_id
            bool active
            float32 heartbeat_timeout
            float32 heartbeat_period
        """
    },
    "nav2_msgs": {
        "action/FollowPath.action": """
            nav_msgs/Path path
            string controller_id
            string goal_checker_id
            string progress_checker_id
            ---
            uint16 NONE=0
            uint16 UNKNOWN=100
            uint16 INVALID_PATH=103
            std_msgs/Empty result
            uint16 error_code
            string error_msg
            ---
            float32 distance_to_goal
            float32 speed
        """,
        "action/NavigateToPose.action": """
            geometry_msgs/PoseStamped pose
            string behavior_tree
            ---
            uint16 NONE=0
            uint16 UNKNOWN=9000
            uint16 error_code
            string error_msg
            ---
            geometry_msgs/PoseStamped current_pose
            builtin_interfaces/Duration navigation_time
            builtin_interfaces/Duration estimated_time_remaining
            int16 number_of_recoveries
            float32 distance_remaining
        """,
    },
    "simulation_interfaces": {
        "msg/Result.msg": """
            uint8 RESULT_FEATURE_UNSUPPORTED=0
            uint8 RESULT_OK=1
            uint8 RESULT_NOT_FOUND=2
            uint8 RESULT_INCORRECT_STATE=3
            uint8 RESULT_OPERATION_FAILED=4
            uint8 result
            string error_message
        """,
        "msg/SimulationState.msg": """
            uint8 STATE_STOPPED=0
            uint8 STATE_PLAYING=1
            uint8 STATE_PAUSED=2
            uint8 STATE_QUITTING=3
            uint8 STATE_NO_WORLD=4
            uint8 STATE_LOADING_WORLD=5
            uint8 state
        """,
        "msg/SimulatorFeatures.msg": """
            uint8 SPAWNING=0
            uint8 ENTITY_STATE_GETTING=10
            uint8 ENTITY_STATE_SETTING=11
            uint8 SIMULATION_RESET=20
            uint8 SIMULATION_RESET_TIME=21
            uint8 SIMULATION_RESET_STATE=22
            uint8 SIMULATION_RESET_SPAWNED=23
            uint8 SIMULATION_STATE_GETTING=24
            uint8 SIMULATION_STATE_SETTING=25
            uint8 SIMULATION_STATE_PAUSE=26
            uint8 STEP_SIMULATION_SINGLE=31
            uint8 STEP_SIMULATION_MULTIPLE=32
            uint8 STEP_SIMULATION_ACTION=33
            uint8 WORLD_LOADING=40
            uint8 WORLD_RESOURCE_STRING=41
            uint8 WORLD_INFO_GETTING=44
            uint16[] features
            string[] spawn_formats
            string custom_info
        """,
        "msg/EntityState.msg": """
            std_msgs/Header header
            geometry_msgs/Pose pose
            geometry_msgs/Twist twist
            geometry_msgs/Accel acceleration
        """,
        "msg/Resource.msg": "string uri\nstring resource_string",
        "msg/WorldResource.msg": """
            string name
            Resource world_resource
            string description
            string[] tags
        """,
        "srv/GetSimulatorFeatures.srv": "---\nSimulatorFeatures features",
        "srv/ResetSimulation.srv": """
            uint8 SCOPE_DEFAULT=0
            uint8 SCOPE_TIME=1
            uint8 SCOPE_STATE=2
            uint8 SCOPE_SPAWNED=4
            uint8 SCOPE_ALL=255
            uint8 scope
            ---
            Result result
        """,
        "srv/StepSimulation.srv": "uint64 steps 1\n---\nResult result",
        "srv/GetSimulationState.srv": "---\nSimulationState state\nResult result",
        "srv/SetSimulationState.srv": """
            SimulationState state
            ---
            uint8 ALREADY_IN_TARGET_STATE=101
            uint8 STATE_TRANSITION_ERROR=102
            uint8 INCORRECT_TRANSITION=103
            Result result
        """,
        "srv/GetEntityState.srv": "string entity\n---\nResult result\nEntityState state",
        "srv/SetEntityState.srv": """
            string entity
            EntityState state
            bool set_pose
            bool set_twist
            bool set_acceleration
            ---
            uint8 INVALID_POSE=101
            Result result
        """,
        "srv/GetCurrentWorld.srv": "---\nResult result\nWorldResource world",
        "srv/LoadWorld.srv": """
            Resource world_resource
            bool fail_on_unsupported_element
            bool ignore_missing_or_unsupported_assets
            ---
            uint8 UNSUPPORTED_FORMAT=101
            uint8 NO_RESOURCE=102
            uint8 RESOURCE_PARSE_ERROR=103
            Result result
            WorldResource world
        """,
    },
}
"""Interface files by package: the names, fields and values that the bridge uses, as the packages have them.

nav2_msgs is that of Kilted, simulation_interfaces version 2.1.0.
"""
LIBRARIES = (
    "geometry_msgs",
    "nav_msgs",
    "std_msgs",
    "builtin_interfaces",
    "service_msgs",
    "action_msgs",
    "unique_identifier_msgs",
)
GENERATORS = ("rosidl_generator_c", "rosidl_typesupport_fastrtps_c")


def can_generate() -> bool:
    """Test for the generators of the wheels and a compiler."""
    return ros_is_installed() and bool(shutil.which("gcc")) and find_spec("rosidl_generator_py") is not None


needs_generated_types = pytest.mark.skipif(not can_generate(), reason="no generators of rosidl, or no gcc")


def generated_types(folder: Path) -> Path:
    """Generate and compile the packages of `DEFINITIONS` below a folder, to be put on PYTHONPATH."""
    parser = importlib.import_module("rosidl_parser.parser")
    with pytest.MonkeyPatch.context() as patch:
        # Six generators read each file, and reading it takes most of their time.
        patch.setattr(parser, "parse_idl_string", cache(parser.parse_idl_string))
        missing = [package for package in DEFINITIONS if find_spec(package) is None]
        for package in missing:
            _generate(package, DEFINITIONS[package], folder / package, folder)
    if missing:
        _compile(missing, folder)
    return folder


def _generate(package: str, files: dict[str, str], out: Path, root: Path) -> None:
    idls = []
    with contextlib.redirect_stdout(io.StringIO()):
        for name, text in files.items():
            source = root / "definitions" / package / name
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text(dedent(text).strip() + "\n")
            kind = source.suffix[1:]
            convert = getattr(importlib.import_module(f"rosidl_adapter.{kind}"), f"convert_{kind}_to_idl")
            convert(root / "definitions" / package, package, Path(name), out / Path(name).parent)
            idls.append(Path(name).with_suffix(".idl"))

        def arguments(generator: str, **more: object) -> str:
            known = [d.name for d in (PREFIX / "share").iterdir() if (d / "msg").is_dir() or (d / "srv").is_dir()]
            file = out / f"{generator}.json"
            values = {
                "package_name": package,
                "output_dir": str(out),
                "template_dir": str(PREFIX / "share" / generator / "resource"),
                "idl_tuples": [f"{out}:{idl}" for idl in idls],
                "ros_interface_dependencies": [],
                "ros_interface_files": [str(out / idl) for idl in idls],
                "target_dependencies": [],
                "include_paths": [f"{name}:{PREFIX / 'share' / name}" for name in known],
            }
            file.write_text(json.dumps({**values, **more}))
            return str(file)

        def call(generator: str, function: str, *given: object) -> None:
            getattr(importlib.import_module(generator), function)(*given)

        described = [f"{idl}:{out / idl.with_suffix('.json')}" for idl in idls]
        call("rosidl_generator_type_description", "generate_type_hash", arguments("rosidl_generator_type_description"))
        call("rosidl_generator_c", "generate_c", arguments("rosidl_generator_c", type_description_tuples=described))
        fast = "rosidl_typesupport_fastrtps_c"
        call(fast, "generate_typesupport_fastrtps_c", arguments(fast))
        call("rosidl_typesupport_c", "generate_c", arguments("rosidl_typesupport_c"), [fast])
        call("rosidl_generator_py", "generate_py", arguments("rosidl_generator_py"), ["rosidl_typesupport_c"])
    for generator in GENERATORS:
        header = PREFIX / "share" / generator / "resource" / f"{generator}__visibility_control.h.in"
        text = header.read_text().replace("@PROJECT_NAME_UPPER@", package.upper()).replace("@PROJECT_NAME@", package)
        (out / "msg").mkdir(exist_ok=True)
        (out / "msg" / f"{generator}__visibility_control.h").write_text(text)
    (out / "__init__.py").touch()


def _compile(packages: list[str], root: Path) -> None:
    """Make one library of all packages; C files are compiled as one, C++ files too: their headers take longest."""
    import numpy as np

    folders = [root, PREFIX / "include", *(PREFIX / "include").iterdir(), np.get_include()]
    flags = ["-O0", "-fPIC", "-w", "-D_GNU_SOURCE", *(f"-I{f}" for f in folders)]
    flags.append(f"-I{sysconfig.get_paths()['include']}")
    sources = {end: [f for p in packages for f in sorted((root / p).rglob(f"*{end}"))] for end in (".c", ".cpp")}
    alone = [file for file in sources[".c"] if file.stem.endswith("__description")]  # these have names in common
    wholes = []
    for suffix, files in sources.items():
        whole = root / f"whole_{suffix[1:]}{suffix}"
        whole.write_text("".join(f'#include "{file}"\n' for file in files if file not in alone))
        wholes.append(whole)
    objects = root / "objects"
    objects.mkdir()
    subprocess.run(["gcc", *flags, "-c", *alone, *wholes], check=True, timeout=300, cwd=objects)
    kinds = ("rosidl_generator_c", "rosidl_typesupport_fastrtps_c", "rosidl_typesupport_c", "rosidl_generator_py")
    others = ("rosidl_runtime_c", "rosidl_typesupport_c", "rosidl_typesupport_fastrtps_c", "fastcdr", "rmw", "rcutils")
    libraries = [f"{p}__{kind}" for p in LIBRARIES for kind in kinds] + [*others, "rosidl_typesupport_fastrtps_cpp"]
    there = [f"-l{name}" for name in libraries if (PREFIX / "lib" / f"lib{name}.so").exists()]
    target, folder = objects / "all_packages.so", PREFIX / "lib"
    made = [str(file) for file in objects.glob("*.o")]
    link = ["g++", "-shared", "-o", str(target), *made, f"-L{folder}", f"-Wl,-rpath,{folder}", *there]
    subprocess.run(link, check=True, timeout=300)
    for package in packages:
        (root / package / f"{package}_s__rosidl_typesupport_c.so").symlink_to(Path("..") / target.relative_to(root))


@cache
def shared_types() -> Path:
    """The packages, generated once per checkout; this process and those it starts can import them."""
    content = repr((sys.version, str(PREFIX))).encode() + Path(__file__).read_bytes()
    folder = ROOT / ".pytest_cache" / f"ros_types_{hashlib.sha256(content).hexdigest()[:16]}"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "ros_types.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes would both take ten seconds
        if not folder.exists():
            generated_types(Path(tempfile.mkdtemp(prefix="ros_types_", dir=folder.parent))).rename(folder)
    site.addsitedir(str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    importlib.invalidate_caches()
    return folder
