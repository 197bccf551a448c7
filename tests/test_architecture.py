"""Who may import whom, and what no file does. The tables are the rules; the tests at the end break each of them."""

import ast
import graphlib
import importlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache

import pytest
from doc_blocks import PAGES, blocks_of
from repository import PACKAGES, ROOT, repository_files

import mirage_env

LIBRARY = tuple(f"{package}/*" for package in PACKAGES)
LEAVES = ("mirage_env/rooms/*", "mirage_env/training/*", "mirage_env/evaluation/*")
COMMANDS = ("mirage_env/cli.py", "mirage_env/commands/*")


@dataclass(frozen=True)
class Only:
    """Among the files `where`, only those of `by` may import `modules`."""

    modules: tuple[str, ...]
    by: tuple[str, ...]
    where: tuple[str, ...] = LIBRARY


POSIX_ONLY = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty")
"""Modules that other systems lack; what runs on a terminal or a robot may have them."""

RULES = (
    Only(("diffusers", "transformers"), ("mirage_env/models/*", "mirage_env/training/*", "mirage_env/evaluation/*")),
    Only(("depth_anything_3", "mapanything"), ("mirage_env/models/geometry/packaged_depth.py",)),
    Only(
        ("zarr",),
        (
            "mirage_env/store/format/zarr_metadata.py",
            "mirage_env/datasets/clip_store.py",
            "mirage_env/datasets/zip_arrays.py",
        ),
    ),
    Only(("minari",), ("mirage_env/episodes/minari.py",)),
    Only(("pyarrow",), ("mirage_env/episodes/lerobot.py", "mirage_env/datasets/recordings/parquet_tables.py")),
    Only(("obstore",), ("mirage_env/store/backends/object_store.py",)),
    Only(("icechunk",), ("mirage_env/store/icechunk_history.py",)),
    Only(("rclpy",), ("ros_bridge/_ros.py",)),
    Only(("rosbags",), ("ros_bridge/bag/rosbag_files.py",)),
    Only(("rerun",), ("mirage_env/viz/rerun_files.py",)),
    Only(("IPython",), ("mirage_env/notebook.py",)),
    Only(("websockets",), ("mirage_env/serving/client.py",)),
    # What happens to a server's worlds is apart from how requests arrive.
    Only(
        ("starlette", "uvicorn"),
        tuple(f"mirage_env/serving/{name}.py" for name in ("app", "rollout_sessions", "server")),
    ),
    Only(("pydantic",), ("mirage_env/serving/requests.py", "mirage_env/serving/session_requests.py")),
    Only(
        ("ray",),
        ("mirage_env/serving/cluster.py", "mirage_env/serving/replicas.py"),
    ),
    Only(("prometheus_client",), ("mirage_env/serving/metrics.py",)),
    Only(("mirage_env.viewer",), ("mirage_env/viewer/*", "mirage_env/serving/*", *COMMANDS)),
    Only(
        ("transforms3d",),
        ("ros_bridge/messages/optical_frames.py",),
    ),
    # The core knows none of the leaves; the command line starts them, and the bridge opens a room without an image.
    Only(
        ("mirage_env.rooms", "mirage_env.training", "mirage_env.evaluation"),
        (*LEAVES, *COMMANDS, "ros_bridge/inputs/start_views.py"),
    ),
    # The networks meet the world model through the Protocols of interfaces.py; loading puts the two together.
    Only(
        ("mirage_env.world_model", "mirage_env.envs.world", "mirage_env.store", "mirage_env.viewer"),
        ("mirage_env/models/world_model_loader.py", "mirage_env/models/model_options.py"),
        where=("mirage_env/models/*",),
    ),
    Only(
        ("policies",),
        ("policies/*", "ros_bridge/nodes/policy_node.py", *COMMANDS),
    ),
    Only(POSIX_ONLY, ("ros_bridge/teleop_keyboard.py",)),
    Only(("ros_bridge",), ("ros_bridge/*", *COMMANDS, "mirage_env/doctor/installation.py")),
    # What executes code on loading; one test sends environments through it, as multiprocessing does.
    Only(
        ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"), ("tests/envs/test_copies.py",), where=("*",)
    ),
)

LAYERS = (
    ("errors", "files", "config"),
    ("poses", "camera"),
    ("interfaces", "images", "fit_view", "tokens"),
    ("readout",),
    ("memory", "world_state"),
    ("world_model",),
    ("world_views",),
    ("datasets", "models", "spaces"),
    ("trajectories", "tasks", "store", "export"),
    ("envs", "viz"),
    ("episodes", "rooms"),
)
"""Packages and modules of `mirage_env`, lowest first: each imports its layer and those below. Others stand on top."""

MOST_MODULES = {"mirage_env": 14, "mirage_env/models": 10, "mirage_env/store": 10, "ros_bridge": 10}
MOST_MODULES |= {f"ros_bridge/{name}": 10 for name in ("inputs", "nodes", "outputs", "player", "services")}
"""Modules directly in a package, at most: a stranger reads one listing."""
LANDMARKS = {
    "z-buffer": "mirage_env/readout/zbuffer.py",
    "gate": "mirage_env/memory/gate.py",
    "SE(3) exponential": "mirage_env/poses.py",
    "step of the Gymnasium environment": "mirage_env/envs/world.py",
    "commit marker": "mirage_env/store/format/commit_marker.py",
    "download from the hub": "mirage_env/models/io/hub.py",
    "condition of the side branch": "mirage_env/models/wan/branch_condition.py",
    "handler of cmd_vel": "ros_bridge/inputs/cmd_vel.py",
}
"""Files that people look for, by what they call it."""

POLICIES_MAY_IMPORT = {"gymnasium", "lazy_loader", "numpy", "torch", "policies", *sys.stdlib_module_names}
"""And `mirage_env` for type checking, or in `POLICIES_WITH_WORLDS`."""
LEARNING = ("policies/learned.py", "policies/training/*")
LEARNING_MAY_IMPORT = {"stable_baselines3", "safetensors", "matplotlib", "tqdm"}
"""Learned policies are networks of Stable-Baselines3; of `mirage_env` they know the errors and the guarded files."""
POLICIES_WITH_WORLDS = ("policies/planner*.py", "policies/rollout*.py")
"""The planner plans inside a world model; rollouts begin with saved worlds."""

FORBIDDEN_CALLS = {
    "print": "prints; use logging, or return the text",
    "torch.load": "unpickles; weights are safetensors",
    "eval": "runs text as code",
    "exec": "runs text as code",
    "Image.open": "opens a picture; open_picture of mirage_env.files knows what to refuse",
}
MAY_OPEN_PICTURES = (
    "mirage_env/files/pictures.py",
    "mirage_env/training/augmentation.py",
    "benchmarks/*",
    "tests/*",
    "docs/*",
)
"""`augmentation` reads the JPEG that it has just written."""
MAY_PRINT = (
    "mirage_env/cli.py",
    "mirage_env/commands/*",
    "ros_bridge/command.py",
    "benchmarks/*",
    "docs/*",
    "examples/*",
)
MAY_PRINT += ("tests/*",)
MAY_UNPICKLE = ("mirage_env/training/scene.py",)
"""Files that read the pickled weights of an installed package, with torch's reader of tensors alone."""
MAY_RENAME = ("mirage_env/files/atomic.py", "mirage_env/store/backends/*")
"""Others write through `mirage_env.files`, so that a kill leaves nothing that is never removed."""
WORLD_MODEL_LINES = 250


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    typing_only: bool  # under `if TYPE_CHECKING:`
    lazy: bool  # inside a function


def dotted(node: ast.expr) -> str:
    """A name as it is written, `?` where something else than a name is; `ast.unparse` takes its time."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{dotted(value)}.{name}"
    return "?"


def imports_of(source: str, tree: ast.AST, package: str) -> Iterator[Import]:
    """Every import of a file, `from a import b` as `a.b`; `package` is where relative imports start."""
    by_call = "import_module" in source or "__import__" in source  # expressions are most of a file
    todo = [(tree, False, False)]
    while todo:
        parent, typing_only, lazy = todo.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.expr) and not by_call:
                continue
            names: list[str] = []
            match node:
                case ast.Import():
                    names = [alias.name for alias in node.names]
                case ast.ImportFrom():
                    parents = package.split(".")[: 1 - node.level or None] if node.level else []
                    base = ".".join([*parents, *([node.module] if node.module else [])])
                    names = [f"{base}.{alias.name}" for alias in node.names]
                case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__")):
                    names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
            yield from (Import(name, node.lineno, typing_only, lazy) for name in names)
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            is_typing = isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING")
            todo.append((node, typing_only or is_typing, lazy or is_function))


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def within(module: str, ancestors: tuple[str, ...]) -> bool:
    return any(module == ancestor or module.startswith(ancestor + ".") for ancestor in ancestors)


def layer_of(module: str) -> int:
    """Index of a module of the core in `LAYERS`; its length for the modules on top."""
    name = module.split(".")[1]
    return next((i for i, layer in enumerate(LAYERS) if name in layer), len(LAYERS))


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def package_of(path: str) -> str:
    return path.rpartition("/")[0].replace("/", ".")


def wrong_imports(path: str, imports: Iterable[Import]) -> Iterator[str]:
    module, top = module_of(path), path.split("/")[0]
    for found in imports:
        root = found.module.split(".")[0]
        place = f"{path}:{found.line} imports {found.module}"
        for rule in RULES:
            if within(found.module, rule.modules) and matches(path, rule.where) and not matches(path, rule.by):
                yield f"{place}; only {', '.join(rule.by) or 'nobody'} may"
        both_in_core = module.startswith("mirage_env.") and found.module.startswith("mirage_env.")
        if both_in_core and not found.typing_only and layer_of(module) < layer_of(found.module):
            yield f"{place}, which lies above it (see LAYERS)"
        adapter = root == "mirage_env" and (found.typing_only or matches(path, POLICIES_WITH_WORLDS))
        adapter |= root == "tyro" and path == "policies/rollout/command.py"  # options of `mirage rollout`
        learning = matches(path, LEARNING) and (
            root in LEARNING_MAY_IMPORT or within(found.module, ("mirage_env.errors", "mirage_env.files"))
        )
        if top == "policies" and root not in POLICIES_MAY_IMPORT and not (adapter or learning):
            yield f"{place}; policies know only Gymnasium, NumPy and torch"
        if top == "ros_bridge" and root == "mirage_env" and "._" in found.module:
            yield f"{place}; the bridge uses public names only"


TOLD = (ast.Call, ast.Attribute, ast.ImportFrom, ast.ExceptHandler)
"""What a bad habit is seen by."""


def bad_habits(path: str, tree: ast.AST) -> Iterator[str]:
    for node in (node for node in ast.walk(tree) if isinstance(node, TOLD)):
        place = f"{path}:{node.lineno}"
        match node:
            case ast.Call(func=ast.Name() | ast.Attribute()):
                name = dotted(node.func)
                allowed = {"print": MAY_PRINT, "torch.load": MAY_UNPICKLE, "Image.open": MAY_OPEN_PICTURES}.get(
                    name, ()
                )
                if name in FORBIDDEN_CALLS and not matches(path, allowed):
                    yield f"{place} {FORBIDDEN_CALLS[name]}"
                if renames(node, name) and matches(path, LIBRARY) and not matches(path, MAY_RENAME):
                    yield f"{place} renames a file by itself; use new_file or replaced_folder of mirage_env.files"
                for keyword in node.keywords:
                    value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                    if keyword.arg == "allow_pickle" and value is not False:
                        yield f"{place} unpickles; arrays are plain"
                    if name.endswith("load_state_dict") and keyword.arg == "strict" and value is not True:
                        yield f"{place} loads weights without checking their keys"
            case ast.Attribute(value=ast.Name(id="sys"), attr="path"):
                yield f"{place} touches sys.path; install the package instead"
            case ast.ImportFrom(module="sys") if any(alias.name == "path" for alias in node.names):
                yield f"{place} touches sys.path; install the package instead"
            case ast.ExceptHandler(type=None):
                yield f"{place} catches everything; name the error"
            case ast.ExceptHandler(type=caught):
                names = {ast.unparse(n) for n in (caught.elts if isinstance(caught, ast.Tuple) else [caught])}
                if names & {"Exception", "BaseException"}:
                    yield f"{place} catches everything; name the error"


def renames(call: ast.Call, name: str) -> bool:
    """Tell whether a call gives a file another name; `replace` of text has two arguments."""
    last, plain = name.rpartition(".")[2], len(call.args) == 1 and not call.keywords
    return name in ("os.replace", "os.rename", "shutil.move") or (plain and last in ("rename", "replace"))


def violations(path: str, source: str) -> list[str]:
    """What is wrong with one file, by its path in the repository."""
    tree = ast.parse(source)
    return [*wrong_imports(path, imports_of(source, tree, package_of(path))), *bad_habits(path, tree)]


@dataclass(frozen=True)
class Looked:
    """What is found in a file, which is parsed once for all tests."""

    imports: list[Import]
    wrong: list[str]
    riddles: list[str]


@cache
def looked(path: str) -> Looked:
    source = (ROOT / path).read_text()
    tree = ast.parse(source)
    imports = [*imports_of(source, tree, package_of(path))]
    return Looked(imports, [*wrong_imports(path, imports), *bad_habits(path, tree)], riddles(tree))


PYTHON_FILES = [path for path in repository_files() if path.endswith(".py")]


def test_files_keep_the_rules():
    found = [line for path in PYTHON_FILES for line in looked(path).wrong]
    assert not found, "\n".join(found)


@cache
def library_imports() -> dict[str, list[Import]]:
    """Imports of every module of the library."""
    return {module_of(path): looked(path).imports for path in PYTHON_FILES if matches(path, LIBRARY)}


def import_graph(lazy: bool) -> dict[str, set[str]]:
    """Modules of the library by what they import at run time; `lazy`: imports inside functions count, too."""
    graph: dict[str, set[str]] = {}
    for module, imports in (modules := library_imports()).items():
        found = {i.module for i in imports if not i.typing_only and (lazy or not i.lazy)}
        known = {name if name in modules else name.rpartition(".")[0] for name in found}
        graph[module] = {name for name in known if name in modules and name != module}
    return graph


def test_modules_import_each_other_without_cycles():
    graphlib.TopologicalSorter(import_graph(lazy=True)).prepare()


def test_packages_import_each_other_without_cycles():
    graph: dict[str, set[str]] = {}
    for module, imported in import_graph(lazy=False).items():
        package = ".".join(module.split(".")[:2])
        others = {".".join(other.split(".")[:2]) for other in imported}
        graph.setdefault(package, set()).update(others - {package})
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(("package", "most"), MOST_MODULES.items())
def test_package_fits_on_one_listing(package, most):
    modules = [path for path in PYTHON_FILES if path.rpartition("/")[0] == package]
    assert 0 < len(modules) <= most, modules


@pytest.mark.parametrize(("searched", "path"), LANDMARKS.items())
def test_landmark_is_found_by_the_name_of_its_file(searched, path):
    assert path in PYTHON_FILES, f"no file is named after {searched!r}"


def test_world_model_is_one_screenful_of_files():
    lines = len((ROOT / "mirage_env/world_model.py").read_text().splitlines())
    assert lines <= WORLD_MODEL_LINES, f"world_model.py has {lines} lines; it is the data flow and nothing else"


IMPORTED_AT_ONCE = {"_distutils_hack", "farama_notifications", "gymnasium", "lazy_loader", "mirage_env", "numpy"}
IMPORTED_AT_ONCE |= {"typing_extensions"}


def modules_after(code: str) -> set[str]:
    """Modules that are loaded after a piece of Python but not by an empty one."""

    def loaded(code: str) -> set[str]:
        command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return set(run.stdout.splitlines()[-1].split())

    return loaded(code) - loaded("import multiprocessing")


def test_importing_the_package_loads_little_beside_gymnasium_and_numpy():
    loaded = modules_after("import mirage_env")
    others = {name.split(".")[0] for name in loaded} - {*sys.stdlib_module_names, *IMPORTED_AT_ONCE}
    assert not {name for name in others if not name.startswith(("__editable__", "_cython", "cython_runtime"))}
    assert {name for name in loaded if name.startswith("mirage_env.")} == {
        "mirage_env.envs",
        "mirage_env.envs.registration",
    }


def test_vocabulary_is_complete_and_resolves():
    stub = ast.parse((ROOT / "mirage_env/__init__.pyi").read_text())
    listed = {alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(dir(mirage_env)) == listed | {"__version__"}
    assert all(getattr(mirage_env, name) is not None for name in dir(mirage_env))
    needed = "Camera LatentMemory WorldModel WorldState errors envs tasks store load_world load_world_model open_cache"
    assert set(f"{needed} preset_path save_world save_world_model __version__".split()) <= set(dir(mirage_env))
    assert mirage_env.__version__ == importlib.metadata.version("mirage-env")


PUBLIC = {module_of(path) for path in PYTHON_FILES if matches(path, LIBRARY) and path.endswith("/__init__.py")}
PUBLIC |= {"mirage_env.errors", "mirage_env.notebook", "mirage_env.poses"}
"""Modules whose names are for users: the packages, and three modules that are part of the vocabulary."""
SHOWN_TO_USERS = tuple(path for path in PYTHON_FILES if path.startswith(("examples/", "docs/")))


def private_imports(source: str) -> list[str]:
    """Imports of our own that are not by public names."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module) if node.module in PUBLIC else None
            wrong += [f"{node.module}.{name}" for name in names if module is None or name not in dir(module)]
        elif isinstance(node, ast.Import):
            wrong += [name for name in names if name not in PUBLIC]
    return [name for name in wrong if name.split(".")[0] in PACKAGES]


def test_examples_and_pages_import_public_names_only():
    sources = {path: (ROOT / path).read_text() for path in SHOWN_TO_USERS}
    for page in PAGES:
        sources[page] = "\n".join(block.code.text for block in blocks_of(page) if block.language == "python")
    found = {path: names for path, source in sources.items() if (names := private_imports(source))}
    assert not found


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from mirage_env.camera import Camera", "mirage_env.camera.Camera"),
        ("import mirage_env.memory.latent", "mirage_env.memory.latent"),
        ("from mirage_env.memory import latent", "mirage_env.memory.latent"),
        ("from mirage_env import world_model", "mirage_env.world_model"),
        ("from policies.planner.policy import PlannerPolicy", "policies.planner.policy.PlannerPolicy"),
    ],
)
def test_private_import_is_seen(source, wrong):
    assert private_imports(source) == [wrong]
    assert private_imports("import numpy\nfrom mirage_env import Camera\nimport mirage_env.store") == []


RIDDLE = re.compile(r"^(?:What|Where|Which|Whether|How|Who|Those|It)\b|\btold\b")
"""A first line of a docstring begins with a verb in the imperative or a noun of the field."""
PLAIN = (*LIBRARY, "docs/*.py", "examples/*")


def riddles(tree: ast.AST) -> list[str]:
    """First lines of docstrings that do not say plainly what a thing is or does."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [first for text in texts if text and RIDDLE.search(first := text.splitlines()[0])]


def test_first_lines_of_docstrings_are_plain():
    plain = [path for path in PYTHON_FILES if matches(path, PLAIN)]
    found = {path: lines for path in plain if (lines := looked(path).riddles)}
    assert not found


def test_riddle_is_seen():
    assert riddles(ast.parse('"""What it takes."""\ndef f():\n    """Return one."""')) == ["What it takes."]


@pytest.mark.parametrize(
    ("path", "source", "says"),
    [
        ("mirage_env/envs/world.py", "import diffusers", "only mirage_env/models"),
        (
            "mirage_env/envs/world.py",
            "def f():\n    from transformers import AutoModel",
            "imports transformers.AutoModel",
        ),
        ("mirage_env/envs/world.py", "import importlib\nimportlib.import_module('zarr')", "imports zarr"),
        ("mirage_env/memory/latent.py", "import zarr.storage", "only mirage_env/store/format/zarr_metadata.py"),
        ("mirage_env/store/world_io.py", "import obstore", "only mirage_env/store/backends/object_store.py"),
        ("ros_bridge/nodes/world_node.py", "import rclpy.node", "only ros_bridge/_ros.py"),
        ("ros_bridge/bag/world_to_bag.py", "from rosbags.rosbag2 import Reader", "only ros_bridge/bag/rosbag_files.py"),
        ("mirage_env/notebook.py", "import rerun.blueprint", "only mirage_env/viz/rerun_files.py"),
        (
            "mirage_env/memory/latent.py",
            "def f():\n    from IPython.display import HTML",
            "only mirage_env/notebook.py",
        ),
        ("mirage_env/viewer/rooms.py", "import websockets", "only mirage_env/serving/client.py"),
        (
            "mirage_env/notebook.py",
            "from mirage_env.viewer.rooms import Rooms",
            "only mirage_env/viewer/*",
        ),
        ("mirage_env/memory/latent.py", "from transforms3d import quaternions", "only ros_bridge"),
        ("mirage_env/envs/world.py", "def f():\n    from mirage_env.rooms import Room", "imports mirage_env.rooms"),
        ("mirage_env/envs/world.py", "from mirage_env import training", "imports mirage_env.training"),
        ("mirage_env/envs/world.py", "from .. import evaluation", "imports mirage_env.evaluation"),
        (
            "mirage_env/models/small/conv_codec.py",
            "from ...world_model import WorldModel",
            "only mirage_env/models/world_model_loader.py",
        ),
        ("mirage_env/envs/world.py", "from policies.base import Policy", "only policies/*"),
        ("mirage_env/envs/world.py", "import ros_bridge", "only ros_bridge/*"),
        ("ros_bridge/nodes/world_node.py", "import policies", "mirage_env/commands/* may"),
        ("ros_bridge/nodes/world_node.py", "from mirage_env.memory.latent import _pack", "public names only"),
        ("mirage_env/camera.py", "from mirage_env.memory.latent import LatentMemory", "lies above it"),
        ("mirage_env/world_model.py", "from mirage_env.models.small.conv_codec import Codec", "lies above it"),
        ("mirage_env/readout/zbuffer.py", "from mirage_env import helpers", "lies above it"),
        ("policies/scripted.py", "import mirage_env", "policies know only"),
        ("policies/scripted.py", "import stable_baselines3", "policies know only"),
        ("policies/training/train.py", "from mirage_env.envs.world import MirageEnv", "policies know only"),
        ("benchmarks/step.py", "import pickle", "only tests/envs/test_copies.py may"),
        ("mirage_env/envs/base.py", "from pickle import loads", "only tests/envs/test_copies.py may"),
        ("mirage_env/store/world_io.py", "import torch\ntorch.load('a')", "unpickles"),
        ("mirage_env/rooms/assets/photographs.py", "from PIL import Image\nImage.open('a')", "opens a picture"),
        ("mirage_env/store/world_io.py", "import numpy as np\nnp.load('a', allow_pickle=True)", "unpickles"),
        ("mirage_env/models/world_model_loader.py", "net.load_state_dict(weights, strict=False)", "without checking"),
        ("examples/01_walk.py", "import sys\nsys.path.append('.')", "sys.path"),
        ("tests/test_a.py", "from sys import path", "sys.path"),
        ("mirage_env/envs/world.py", "try:\n    f()\nexcept:\n    pass", "catches everything"),
        ("mirage_env/envs/world.py", "try:\n    f()\nexcept (OSError, Exception):\n    pass", "catches everything"),
        ("mirage_env/envs/world.py", "print('hello')", "prints"),
        ("mirage_env/files/locks.py", "import fcntl", "only ros_bridge/teleop_keyboard.py"),
        ("policies/training/log.py", "import os\nos.replace('a.partial', 'a')", "renames a file"),
        ("policies/training/log.py", "partial.replace(path)", "renames a file"),
        ("ros_bridge/bag/rosbag_files.py", "folder.rename(path)", "renames a file"),
    ],
)
def test_broken_rule_is_seen(path, source, says):
    found = violations(path, source)
    assert any(says in line for line in found), found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("mirage_env/models/wan/chunk_denoiser.py", "from diffusers import WanTransformer3DModel"),
        ("mirage_env/cli.py", "print('hello')\nfrom mirage_env.rooms import Room\nfrom ros_bridge import command"),
        ("mirage_env/models/world_model_loader.py", "from mirage_env.world_model import WorldModel"),
        ("mirage_env/memory/latent.py", "if TYPE_CHECKING:\n    from mirage_env.world_model import WorldState"),
        ("policies/rollout/loop.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mirage_env"),
        ("policies/planner/memory_model.py", "from mirage_env import WorldModel"),
        ("policies/learned.py", "import stable_baselines3\nfrom mirage_env.errors import PolicyError"),
        ("policies/training/log.py", "from mirage_env.files import new_file\nname.replace('a', 'b')"),
        ("ros_bridge/nodes/policy_node.py", "from policies.base import Policy"),
        ("tests/store/test_store.py", "import zarr"),
        ("mirage_env/serving/client.py", "import websockets.sync.client"),
        ("mirage_env/training/stage2.py", "from mirage_env.rooms import Room\nimport transformers"),
    ],
)
def test_kept_rule_is_not_reported(path, source):
    assert violations(path, source) == []
