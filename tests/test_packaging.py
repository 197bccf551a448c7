"""pip and colcon install the same package, whole, and the README's commands are the ones that are tested."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from site import getsitepackages as site_packages

import numpy as np
import pytest
from fresh_imports import fresh_imports
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from repository import PACKAGES, ROOT, copy_repository, repository_files
from shell_words import commands_of

from mirage_env.cli import main
from mirage_env.models import world_model_loader

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
README = (ROOT / "README.md").read_text()
PACKAGE_FILES = {path for path in repository_files() if path.split("/")[0] in PACKAGES}
ROS_PACKAGES = {"diagnostic_msgs", "geometry_msgs", "launch", "launch_ros", "nav_msgs", "rclpy", "sensor_msgs"}
ROS_PACKAGES |= {"lifecycle_msgs", "std_msgs", "std_srvs", "tf2_msgs"}
SHARED = ("config/fastdds.xml", "config/mirage.yaml", "launch/mirage.launch.py", "rviz/mirage.rviz")
"""What ROS tools look for under share/mirage_env, and where it lies under ros_bridge."""
NODES = {"policy_node", "world_node"}


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def package_xml() -> ET.Element:
    return ET.parse(ROOT / "package.xml").getroot()


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Folder of a wheel and of a source distribution, built as pip builds them."""
    source = copy_repository(tmp_path_factory.mktemp("source"))
    out = tmp_path_factory.mktemp("dist")
    for kind in ("sdist", "wheel"):
        hook = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
        subprocess.run([sys.executable, "-c", hook, str(out)], cwd=source, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def distributions(built) -> tuple[set[str], set[str], str]:
    """Files of the wheel and of the source distribution, and the wheel's entry points."""
    out = built
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        in_wheel = set(wheel.namelist())
        entry_points = wheel.read(next(n for n in in_wheel if n.endswith("entry_points.txt"))).decode()
    with tarfile.open(next(out.glob("*.tar.gz"))) as sdist:
        in_sdist = {name.partition("/")[2] for name in sdist.getnames()}
    return in_wheel, in_sdist, entry_points


def code_block(marker: str) -> str:
    """The fenced block of the README under an HTML comment."""
    found = re.search(rf"<!-- {marker} -->\n```\w*\n(.*?)\n```", README, re.DOTALL)
    assert found, f"README.md has no block marked {marker!r}"
    return found[1]


def requirements(*extras: str) -> list[Requirement]:
    """Direct dependencies, with those of extras; an extra that names others brings theirs."""
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    for extra in extras:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            own = requirement.name == PROJECT["name"]
            found += requirements(*sorted(requirement.extras)) if own else [requirement]
    return found


def test_setup_cfg_says_what_pyproject_says(setup_cfg):
    metadata = setup_cfg["metadata"]
    for key in ("name", "version", "description", "license"):
        assert metadata[key] == PROJECT[key], key
    for role in ("author", "maintainer"):
        assert [{"name": metadata[role], "email": metadata[f"{role}_email"]}] == PROJECT[f"{role}s"]
    assert setup_cfg["options"]["python_requires"] == PROJECT["requires-python"]


def test_setup_cfg_installs_what_pyproject_installs(setup_cfg):
    find = PYPROJECT["tool"]["setuptools"]["packages"]["find"]
    assert setup_cfg["options.packages.find"]["include"].split() == find["include"]
    assert find["namespaces"] is False
    scripts = dict(
        line.split(" = ") for line in setup_cfg["options.entry_points"]["console_scripts"].strip().split("\n")
    )
    assert scripts == PROJECT["scripts"]
    assert setup_cfg["options.extras_require"]["test"] == "pytest"
    assert "pytest" in {r.name for r in requirements("test")}


def test_package_xml_says_what_pyproject_says(package_xml):
    assert package_xml.get("format") == "3"
    assert canonicalize_name(package_xml.findtext("name")) == canonicalize_name(PROJECT["name"])
    assert package_xml.findtext("version") == PROJECT["version"]
    assert package_xml.findtext("description") == PROJECT["description"]
    assert package_xml.findtext("license") == PROJECT["license"]
    for role in ("author", "maintainer"):
        people = [{"name": person.text, "email": person.get("email")} for person in package_xml.findall(role)]
        assert people == PROJECT[f"{role}s"]
    assert package_xml.findtext("export/build_type") == "ament_python"


def test_ros_names_agree(setup_cfg, package_xml):
    name = package_xml.findtext("name")
    data_files = setup_cfg["options.data_files"]
    marker = data_files["share/ament_index/resource_index/packages"]
    assert marker == f"ros_bridge/resource/{name}"
    assert (ROOT / marker).is_file()
    assert data_files[f"share/{name}"] == "package.xml"
    for path in SHARED:
        assert f"ros_bridge/{path}" in data_files[f"share/{name}/{Path(path).parent}"].split()
        assert (ROOT / "ros_bridge" / path).is_file()
    assert setup_cfg["develop"]["script_dir"] == setup_cfg["install"]["install_scripts"] == f"$base/lib/{name}"


def test_rclpy_comes_from_ros_and_pip_packages_from_pip(package_xml):
    depends = {element.text for element in package_xml if element.tag.endswith("depend")}
    assert depends == {*ROS_PACKAGES, "python3-numpy", "python3-pytest"}
    assert not depends & {r.name for r in requirements("test")}, "rosdep does not know pip's names"
    assert not {r.name for r in requirements("test")} & {"rclpy", "ros-rclpy"}


def test_setup_py_holds_nothing():
    assert (ROOT / "setup.py").read_text() == "from setuptools import setup\n\nsetup()\n"


def test_constraints_satisfy_the_declared_ranges():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    for requirement in requirements("test"):
        version = pins.get(canonicalize_name(requirement.name))
        assert version, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement.name}=={version} is not {requirement.specifier}"


@pytest.fixture(scope="module")
def owners() -> Mapping[str, list[str]]:
    """Installed distributions by the import names that they own."""
    return packages_distributions()


@pytest.mark.parametrize("name", PACKAGES)
def test_import_name_has_one_owner(name, owners):
    owners = {canonicalize_name(owner) for owner in owners.get(name, [])}
    assert owners == {PROJECT["name"]}, f"{name} is installed by {owners or 'nobody'}; run pip install -e '.[test]'"


NO_DEPENDENCIES = {"depth_anything_3", "mapanything"}
"""One pins versions that nothing else can live with, the other is on no index; docs/geometry.md installs them."""


IMPORT = re.compile(r"^[ \t]*(?:from (\w+)[\w.]* import |import (\w+))", re.MULTILINE)
"""The first name of what a line imports; parsing all files takes seconds."""


def test_imports_are_declared_dependencies(owners):
    extras = set(PROJECT["optional-dependencies"]) - {"docs", "play", "ros", "test"}
    declared = {canonicalize_name(r.name) for r in requirements(*extras)}
    undeclared = set()
    for path in sorted(PACKAGE_FILES):
        if not path.endswith(".py") or path in ("ros_bridge/_ros.py", "ros_bridge/launch/mirage.launch.py"):
            continue  # what they import comes from ROS
        roots = {name for names in IMPORT.findall((ROOT / path).read_text()) for name in names if name}
        for root in roots - {*PACKAGES, *NO_DEPENDENCIES, *sys.stdlib_module_names}:
            if not {canonicalize_name(owner) for owner in owners.get(root, [root])} & declared:
                undeclared.add(f"{path} imports {root}")
    assert not undeclared


WITHOUT_PICTURES = """
import sys
pictures = dict.fromkeys(["matplotlib", "imageio_ffmpeg"])
sys.modules |= pictures
"""


@pytest.mark.parametrize("command", ["walk --seed 7 --out w", "play --record w"])
def test_missing_pictures_are_said_before_a_model_is_loaded(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(world_model_loader, "load_world_model", None)
    with fresh_imports(missing=("matplotlib", "imageio_ffmpeg")):
        assert main(command.split()) == 2
    assert "pip install 'mirage-env[pictures]'" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_wheel_holds_the_packages_and_nothing_else(distributions):
    in_wheel, _, entry_points = distributions
    assert in_wheel >= PACKAGE_FILES
    assert {"mirage_env/py.typed"} <= in_wheel
    shipped = {name.split("/")[2] for name in in_wheel if name.startswith("mirage_env/weights/")}
    assert shipped == {"previews", "rooms"}, "weights that only an evaluation needs stay out"
    stem = f"{canonicalize_name(PROJECT['name']).replace('-', '_')}-{PROJECT['version']}"
    assert {name.split("/")[0] for name in in_wheel} == {*PACKAGES, f"{stem}.dist-info", f"{stem}.data"}
    assert f"{stem}.data/data/share/ament_index/resource_index/packages/mirage_env" in in_wheel
    assert f"{stem}.data/data/share/mirage_env/package.xml" in in_wheel
    for path in SHARED:
        assert f"{stem}.data/data/share/mirage_env/{path}" in in_wheel
    assert "mirage = mirage_env.cli:main" in entry_points
    for node in NODES:
        assert f"{node} = ros_bridge.nodes.{node}:main" in entry_points


LARGEST_WHEEL = 45 * 2**20


def test_wheel_is_small(built):
    [wheel] = built.glob("*.whl")
    assert wheel.stat().st_size < LARGEST_WHEEL


def test_sdist_holds_what_a_build_and_a_test_need(distributions):
    _, in_sdist, _ = distributions
    needed = {path for path in repository_files() if path.startswith("tests/")} | PACKAGE_FILES
    needed |= {"pyproject.toml", "setup.py", "setup.cfg", "package.xml", "constraints.txt", "README.md", "LICENSE"}
    assert needed <= in_sdist


@dataclass(frozen=True)
class Workspace:
    """A colcon workspace whose `src` holds a copy of this repository."""

    root: Path

    def colcon(self, verb: str, *options: str) -> str:
        """Run colcon and return what it wrote."""
        colcon = Path(sys.executable).parent / "colcon"
        folders = ["--base-paths", "src", "--build-base", "build", "--install-base", "install"]
        command = [str(colcon), "--log-base", "log", verb, *folders, *options]
        environment = {**os.environ, "COLCON_HOME": str(self.root / "home")}
        run = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def sourced(self, command: str, *arguments: str) -> str:
        """What a command writes in a shell that has the workspace sourced."""
        environment = {**os.environ, "COLCON_CURRENT_PREFIX": str(self.root / "install")}
        script = ["bash", "-c", f". install/setup.sh && {command}", *arguments]
        run = subprocess.run(script, cwd=self.root, env=environment, capture_output=True, text=True, check=True)
        return run.stdout


@pytest.fixture(scope="module", params=[[], ["--symlink-install"]], ids=["copy", "symlink"])
def workspace(request, tmp_path_factory) -> tuple[Workspace, bool]:
    """A workspace that is built, and whether it links to the sources."""
    built = Workspace(tmp_path_factory.mktemp("workspace"))
    copy_repository(built.root / "src" / "mirage_env")
    built.colcon("build", *request.param)
    return built, bool(request.param)


def test_colcon_builds_a_ros_package(workspace):
    built, linked = workspace
    source, prefix = built.root / "src/mirage_env", built.root / "install/mirage_env"
    assert (prefix / "share/ament_index/resource_index/packages/mirage_env").is_file()
    assert (prefix / "share/mirage_env/package.xml").read_text() == (source / "package.xml").read_text()
    for path in SHARED:
        assert (prefix / "share/mirage_env" / path).read_text() == (source / "ros_bridge" / path).read_text()
    for name in {"mirage", *NODES}:
        assert os.access(prefix / "lib/mirage_env" / name, os.X_OK), f"`ros2 run mirage_env {name}` finds nothing"

    files = "print(*(p.__file__ for p in (mirage_env, policies, ros_bridge)), sep='\\n')"
    found = built.sourced(f'"$0" -c "import mirage_env, policies, ros_bridge; {files}"', sys.executable)
    for path in found.split():
        assert Path(path).is_relative_to(built.root)
        assert Path(path).resolve().is_relative_to(source) == linked


def test_colcon_test_runs_tests(workspace):
    built, linked = workspace
    if linked:
        pytest.skip("the sources are tested, however they are installed")
    # One quick file stands for all: this is about colcon finding pytest.
    built.colcon("test", "--pytest-args", "tests/ros_bridge/test_optical_frames.py")
    results = ET.parse(built.root / "build/mirage_env/pytest.xml").getroot()
    suite = results if results.tag == "testsuite" else results[0]
    assert int(suite.get("tests", 0)) > 0
    assert int(suite.get("errors", 0)) == int(suite.get("failures", 0)) == 0


def test_ci_runs_the_readme_test_command():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    shown = subprocess.run([ROOT / ".ci/run", "--show"], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == code_block("test command")


@pytest.mark.parametrize("marker", ["first command", "test command"])
def test_readme_command_names_what_exists(marker):
    command = code_block(marker)
    assert "\n" not in command
    words = shlex.split(command)
    constraints, target = words[words.index("-c") + 1], words[words.index("-e") + 1]
    assert (ROOT / constraints).is_file()
    assert target.startswith(".")
    extras = target.removeprefix(".").strip("[]")
    assert set(filter(None, extras.split(","))) <= set(PROJECT["optional-dependencies"])
    last = words[len(words) - words[::-1].index("&&")]
    assert last in {*PROJECT["scripts"], "pytest"}


def test_readme_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_changelog_has_this_version():
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"(?<![\w.~$})*/-])/(?:(?:home|root|work|mnt|Users)/\w|opt/(?!ros\b))", "a path of somebody's machine"),
        (r"--(?:extra-)?index-url|--find-(?:links)|PIP_\w*(?:INDEX|LINKS|CERT)", "a pip source"),
        (r"\b(?:pypi|pythonhosted|download\.pytorch)\.\w|file:/{3}(?!path\b)\w", "a registry host"),
    ],
)
def test_files_name_no_machine(pattern, what):
    found = []
    for path in repository_files():
        content = (ROOT / path).read_bytes()
        if b"\0" in content:
            continue
        lines = content.decode().splitlines()
        found += [f"{path}:{n}: {line.strip()}" for n, line in enumerate(lines, 1) if re.search(pattern, line)]
    assert not found, f"{what}: " + "\n".join(found)


# Last of this file: by then other processes have compiled most of the kernels.

FROM_THE_WHEEL = f"""{WITHOUT_PICTURES}
from importlib.metadata import version
import gymnasium, mirage_env
from mirage_env.cli import main
assert mirage_env.__file__.startswith(sys.argv[1]), mirage_env.__file__
assert mirage_env.__version__ == version("mirage-env")
for module in (mirage_env, mirage_env.envs, mirage_env.store, mirage_env.memory, mirage_env.viz, mirage_env.episodes):
    for name in dir(module):
        getattr(module, name)
exec(sys.argv[2])
import warnings
from gymnasium.utils.env_checker import check_env
with warnings.catch_warnings(action="ignore"):
    small = gymnasium.make("Mirage/World-v0", image_size=(64, 64), chunk_frames=1)
    check_env(small.unwrapped, skip_render_check=True)
for name in pictures:
    del sys.modules[name]
sys.exit(main(sys.argv[3:]))
"""
"""Everything but drawing works without what only pictures need, the Python of the README first of all."""


@pytest.fixture
def bare_environment(built, tmp_path) -> Path:
    """Python of an environment that has the wheel, installed by pip, and its dependencies; not this checkout."""
    python = tmp_path / "bare/bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    [site] = (tmp_path / "bare").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(site_packages()))  # .pth files of those folders are not read
    [wheel] = built.glob("*.whl")
    command = [
        sys.executable,
        "-m",
        "pip",
        "--isolated",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True)
    share_kernels(site)
    return python


def share_kernels(site: Path) -> None:
    """Give installed packages the kernels that this checkout has compiled: those they would compile are the same."""
    for package in PACKAGES:
        for index in (ROOT / package).rglob("__pycache__/*.nbi"):
            module = index.parents[1] / f"{index.name.partition('.')[0]}.py"
            installed = site / module.relative_to(ROOT)
            if not module.exists() or module.read_bytes() != installed.read_bytes():
                continue
            os.utime(installed, ns=(module.stat().st_atime_ns, module.stat().st_mtime_ns))  # an index belongs to a time
            for file in index.parent.glob(f"{index.stem}.*"):
                (installed.parent / "__pycache__").mkdir(exist_ok=True)
                shutil.copy2(file, installed.parent / "__pycache__")


def test_wheel_alone_runs_the_readme_and_check_env_and_its_first_command_makes_the_picture(bare_environment, tmp_path):
    code, prefix = code_block("python"), bare_environment.parents[1]
    assert len(code.splitlines()) <= 10
    assert code.count("range(8)") == 1
    code = code.replace("range(8)", "range(2)")  # the walk below takes eight steps of that size
    words = next(
        words for words in commands_of(code_block("first command"), tmp_path / "shell") if words[0] == "mirage"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(bare_environment), "-W", "error", "-c", FROM_THE_WHEEL, str(prefix), code, *words[1:]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "my_world.zarr").exists()
    assert (tmp_path / "walk/walk.mp4").is_file()
    sheets = (tmp_path / "walk/contact_sheet.png", ROOT / "docs/walk.png")
    made, shown = (np.asarray(Image.open(path), np.float64) for path in sheets)
    error = np.sqrt(((made - shown) ** 2).mean())
    assert error < 3.0, "the model has changed: copy walk/contact_sheet.png of the README's command to docs/walk.png"
