"""ROS message types that the wheels lack, generated from their definitions with the wheels' own rosidl and a compiler.

`shared_types()` gives packages to put on PYTHONPATH: tf2_msgs, as `DEFINITIONS` says. It takes a few
seconds and needs gcc; `needs_generated_types` skips what does where one of the two is missing.
"""

from __future__ import annotations

import contextlib
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

import pytest
from repository import ROOT
from ros_process import ros_is_installed

PREFIX = Path(sys.prefix)
DEFINITIONS: dict[str, dict[str, str]] = {
    "tf2_msgs": {"msg/TFMessage.msg": "geometry_msgs/TransformStamped[] transforms\n"},
}
"""Interface files by package, for tests; names and fields are those of the packages of ROS."""
LIBRARIES = ("geometry_msgs", "std_msgs", "builtin_interfaces", "service_msgs")
GENERATORS = ("rosidl_generator_c", "rosidl_typesupport_fastrtps_c")


def can_generate() -> bool:
    """Test for the generators of the wheels and a compiler."""
    return ros_is_installed() and bool(shutil.which("gcc")) and find_spec("rosidl_generator_py") is not None


needs_generated_types = pytest.mark.skipif(not can_generate(), reason="no generators of rosidl, or no gcc")


def generated_types(folder: Path) -> Path:
    """Generate and compile the packages of `DEFINITIONS` below a folder, to be put on PYTHONPATH."""
    for package, files in DEFINITIONS.items():
        if find_spec(package) is None:
            _generate(package, files, folder / package, folder)
            _compile(package, folder / package, folder)
    return folder


def _generate(package: str, files: dict[str, str], out: Path, root: Path) -> None:
    idls = []
    with contextlib.redirect_stdout(io.StringIO()):
        for name, text in files.items():
            source = root / "definitions" / package / name
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text(text)
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


def _compile(package: str, out: Path, root: Path) -> None:
    import numpy as np

    folders = [root, PREFIX / "include", *(PREFIX / "include").iterdir(), np.get_include()]
    includes = [f"-I{folder}" for folder in (*folders, sysconfig.get_paths()["include"])]
    objects = []
    for file in sorted([*out.rglob("*.c"), *out.rglob("*.cpp")]):
        compiler = ["gcc", "-std=c11"] if file.suffix == ".c" else ["g++", "-std=c++17"]
        objects.append(str(file) + ".o")
        subprocess.run(
            [*compiler, "-O0", "-fPIC", "-w", "-D_GNU_SOURCE", "-c", file, "-o", objects[-1], *includes],
            check=True,
            timeout=60,
        )
    kinds = ("rosidl_generator_c", "rosidl_typesupport_fastrtps_c", "rosidl_typesupport_c", "rosidl_generator_py")
    others = ("rosidl_runtime_c", "rosidl_typesupport_c", "rosidl_typesupport_fastrtps_c", "fastcdr", "rmw", "rcutils")
    libraries = [f"{p}__{kind}" for p in LIBRARIES for kind in kinds] + [*others, "rosidl_typesupport_fastrtps_cpp"]
    there = [f"-l{name}" for name in libraries if (PREFIX / "lib" / f"lib{name}.so").exists()]
    target = out / f"{package}_s__rosidl_typesupport_c.so"
    folder = PREFIX / "lib"
    link = ["g++", "-shared", "-o", str(target), *objects, f"-L{folder}", f"-Wl,-rpath,{folder}", *there]
    subprocess.run(link, check=True, timeout=60)


@cache
def shared_types() -> Path:
    """The packages, generated once per checkout; this process and those it starts can import them."""
    content = repr((DEFINITIONS, sys.version, str(PREFIX))).encode()
    folder = ROOT / ".pytest_cache" / f"ros_types_{hashlib.sha256(content).hexdigest()[:16]}"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        made = generated_types(Path(tempfile.mkdtemp(prefix="ros_types_", dir=folder.parent)))
        with contextlib.suppress(OSError):  # another process was faster
            made.rename(folder)
    site.addsitedir(str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    importlib.invalidate_caches()
    return folder
