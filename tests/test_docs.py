"""Every code block of the documentation runs, every command is one, and the pages build without a warning."""

import dataclasses
import importlib.util
import inspect
import json
import os
import re
import runpy
import shlex
import shutil
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import doc_commands
import gymnasium
import pytest
import yaml
from browsers import chromium
from doc_blocks import FENCE, PAGES, blocks_of, inline_commands, script_of, unresolved
from forked_python import ForkedProcess
from repository import PACKAGES, ROOT, repository_files
from shell_words import commands_of
from small_pictures import small_pictures

from mirage_env import MirageEnv
from mirage_env.cli import main
from mirage_env.envs.arguments import EnvArguments
from mirage_env.rooms.env import RoomsEnv
from mirage_env.spaces.actions import CONTROLS, make_control
from mirage_env.spaces.observations import EXTRAS

_spec = importlib.util.spec_from_file_location("api_pages", ROOT / "docs/api_pages.py")
api_pages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(api_pages)
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
ENVIRONMENT = "docs/environment.md"
SHELL = [block for block in BLOCKS if block.language == "bash"]
PYTHON_PAGES = [page for page in PAGES if any(block.language == "python" for block in blocks_of(page))]
PYTHON_PAGES.remove("README.md")  # tests/test_packaging.py runs it from the wheel


@pytest.fixture(autouse=True, scope="module")
def _small_pictures():
    with small_pictures():
        yield


@pytest.fixture
def short_episodes(monkeypatch):
    """Episodes of tasks end after two steps: pages show whole episodes, and the tests have little time."""
    make = gymnasium.make

    def short(name, **arguments):
        longest = gymnasium.spec(name).max_episode_steps
        return make(name, **({"max_episode_steps": 2} if longest else {}) | arguments)

    monkeypatch.setattr(gymnasium, "make", short)


@pytest.mark.usefixtures("short_episodes")
@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    script = tmp_path / f"{Path(page).stem}.py"
    script.write_text(script_of(page))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    names = runpy.run_path(str(script), run_name="documentation")
    for block in blocks_of(page):
        if block.language == "python" and block.reason is not None:
            assert len(block.reason.split()) > 2, f"{block}: say why it is not run"
            assert not unresolved(block.code.text, names), str(block)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_commands_are_ones_that_the_programs_take(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = commands_of(block.code.text, tmp_path / "shell")
    for words in commands:
        doc_commands.check(words)
    if block.wants_run:
        for words in commands:
            if words[0] == "mirage":
                assert main(words[1:]) == 0, shlex.join(words)


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_have_the_options_that_are_named(page):
    for command in inline_commands(page):
        words = [word.split("|")[0] for word in shlex.split(command)[1:] if word != "..."]
        wanted, options = {word for word in words if word.startswith("--")}, doc_commands.options_of(words)
        assert wanted <= options, f"{page}: {command} has no {sorted(wanted - options)}"


def test_block_says_what_it_is():
    for block in BLOCKS:
        assert block.language in ("bash", "json", "python", "text", "yaml"), f"{block}: name its language"
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.code.text), dict), str(block)
        if block.language == "json":
            json.loads(block.code.text)


def test_blocks_that_are_not_run_are_listed_with_their_reasons():
    listed = re.findall(
        r"^\| \[(\S+)\]\(\S+\) \| (\d+) \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    found = Counter((block.page, block.reason) for block in BLOCKS if block.reason is not None)
    assert {(page, reason): int(count) for page, count, reason in listed} == dict(found)


def test_no_sentence_runs_on_after_a_code_block_and_no_command_hides_in_an_indented_one():
    for page in PAGES:
        text = (ROOT / page).read_text()
        assert not re.findall(r"^ *```\n\n *[a-z][^\n]*", text, re.MULTILINE), page
        hidden = re.findall(r"^ {4,}(?:mirage|pip|python) .*", FENCE.sub("", text), re.MULTILINE)
        assert not hidden, f"{page}: fence it with ```bash"


DEAD_LINKS = ("nowhere.md", "store.md#nowhere", "nowhere.png", "../setup.py")


PATIENCE = 600.0
"""Seconds for the site."""
SEARCHES = {
    "WorldModel.step": "WorldModel.step",
    "cmd_vel": "ros/",
    "fork": "fork",
    "check_world_env": "check_world_env",
}
"""What people look for, and what is in the address of one of the first three results."""


class SilentFiles(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages as a site, built with dead links on one of them, and what the strict build said."""
    place = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", place / "docs")
    for path in ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks", "examples", "mkdocs.yml", *PACKAGES):
        (place / path).symlink_to(ROOT / path)
    with (place / "docs/index.md").open("a") as page:
        page.writelines(f"\n![a]({link})\n" if link.endswith("png") else f"\n[a]({link})\n" for link in DEAD_LINKS)
    code = "import sys; from mkdocs.__main__ import cli; sys.argv[1:] = ['build', '--strict']; cli()"
    build = ForkedProcess(["-c", code], dict(os.environ), str(place))  # it imports all that the pages speak about
    with build.stdout:
        said = build.stdout.read()
    return place / "build/site", build.wait(PATIENCE), said


def test_site_builds_but_for_dead_links_without_a_warning(site):
    _, status, said = site
    assert status != 0
    warnings = [line for line in said.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == len(DEAD_LINKS), said
    assert all(any(link in line for line in warnings) for link in DEAD_LINKS)


def test_site_has_every_page_and_every_public_name(site):
    folder, *_ = site
    for page in (".", "model_card", "benchmarks", "faq", "notebook"):
        assert (folder / page / "index.html").is_file()
    assert (folder / "curves.png").is_file()
    for package in api_pages.PACKAGES:
        page = (folder / f"reference/{package}/index.html").read_text()
        missing = [name for name in api_pages.public_names(package) if f'id="{package}.{name}"' not in page]
        assert not missing, package


def test_search_leads_to_names_topics_and_verbs(site):
    handler = partial(SilentFiles, directory=site[0])
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, chromium() as browser:
        threading.Thread(target=server.serve_forever).start()
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(120_000)
            page.goto(f"http://127.0.0.1:{server.server_port}")
            field = page.locator("[data-md-component=search-query]")
            for words, where in SEARCHES.items():
                field.fill(words)
                field.press("End")  # a key is what it looks for
                page.locator(f".md-search-result__item:nth-child(-n+3) a[href*='{where}']").first.wait_for()
        finally:
            server.shutdown()


def test_every_package_with_public_names_is_in_the_reference():
    stubs = [path for path in repository_files() if path.endswith("/__init__.pyi")]
    assert {path.removesuffix("/__init__.pyi").replace("/", ".") for path in stubs} <= {*api_pages.PACKAGES}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("mirage walk --sede 7 --out walk", "options are refused"),
        ("mirage wlak --seed 7", "did you mean walk"),
        ("mirage eval taste", "no command 'taste'"),
        ("mirage ros policy --rate often forward", "options are refused"),
        ("python benchmarks/step.py --fast", "options are refused"),
        ("python benchmarks/nothing.py", "no script"),
        ("python docs/draw_frames.py --out here", "takes no options"),
        ("pip install 'mirage-env[everything]'", "no extras"),
        ("ros2 run mirage_env world_node --ros-args -p speed:=1.0", "no parameters"),
        ("ros2 launch mirage_env mirage.launch.py speed:=1.0", "no argument"),
        ("mkdocs deploy", "deploy"),
        ("pytest tests/test_nothing.py", "test_nothing"),
        ("accelerate launch -m mirage_env.cli train nothing", "options are refused"),
        ("rm -rf /", "rm: command not found"),
    ],
)
def test_wrong_command_is_seen(command, says, tmp_path):
    def check():
        for words in commands_of(command, tmp_path):
            doc_commands.check(words)

    with pytest.raises(AssertionError, match=says):
        check()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import no_such_module", "module no_such_module"),
        ("from mirage_env.trajectories import preset_paht", "mirage_env.trajectories.preset_paht"),
        ("import mirage_env\nmirage_env.load_worlds('rooms')", "mirage_env.load_worlds"),
        ("print(known + unknown)", "unknown"),
    ],
)
def test_name_that_leads_nowhere_is_seen(code, found):
    assert unresolved(code, {"known": 1}) == [found]


def test_name_that_leads_somewhere_is_not_reported():
    code = "from mirage_env import store\nfor i in range(3):\n    def f(x): return [y + i + x for y in store.__all__]"
    assert unresolved(code, {}) == []


def test_page_is_one_that_a_reader_finishes():
    for page in (page for page in PAGES if page.startswith(("README", "docs/"))):
        assert len((ROOT / page).read_text().splitlines()) <= (120 if page == "README.md" else 300), page


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Rows of the first table under a heading, by what stands in code style in their first column."""
    section = (ROOT / page).read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| `")
    ]
    return {name: row for row in cells for name in re.findall(r"`([^`]+)`", row[0])}


@pytest.mark.parametrize(
    ("row", "file", "figure", "says"),
    [
        ("frames/s, whole cycle", "step", "frames_per_second", "{:.1f}"),
        ("a step of 8 frames", "step", "chunk", "{:.2f} s"),
        ("resident memory", "step", "resident_peak", "{:.0f} MiB"),
        ("fork of a world", "store", "fork of a world of 1000 chunks", "{:.1f} µs"),
        ("appending a step", "store", "append, as the step sees it, median", "{:.2f} ms"),
        ("going on from", "store", "load_world, whole", "{:.1f} s"),
        ("going on from", "store", "load_world, lazy", "{:.2f} s lazily"),
        ("reading 5 views", "readout", "numba nearest, 3520000 points, 5 views", "{:.1f} ms"),
        ("the same, best fit", "readout", "numba best fit, two layers, 3520000 points, 5 views", "{:.0f} ms"),
        ("step 1000", "readout", "read a street, chunk 1000 / chunk 10", "{:.2f} times"),
        ("bytes per step", "memory", "bytes per chunk, 0.25 m, gate", "{:.3f} MiB"),
    ],
)
def test_costs_are_those_of_the_baselines(row, file, figure, says):
    figures = json.loads((ROOT / f"benchmarks/{file}_baseline.json").read_text())["figures"]
    [line] = [line for line in (ROOT / "docs/costs.md").read_text().splitlines() if line.startswith(f"| {row}")]
    assert says.format(figures[figure]["value"]) in line


def test_reference_names_every_environment_and_its_task():
    page = (ROOT / ENVIRONMENT).read_text()
    listed = dict(re.findall(r"^\| `((?:Mirage|Rooms)/[\w-]+)` \|.*\| (?:`(\w+)`|none) \|$", page, re.MULTILINE))
    specs = {name: spec for name, spec in gymnasium.registry.items() if name.startswith(("Mirage/", "Rooms/"))}
    assert listed == {name: spec.kwargs["task"] or "" for name, spec in specs.items()}


def test_reference_names_every_argument_with_its_default():
    listed = {name: row[1].strip("`").replace('"', "'") for name, row in rows(ENVIRONMENT, "Arguments").items()}
    assert listed == {field.name: repr(field.default) for field in dataclasses.fields(EnvArguments)}


def test_reference_names_every_control_with_its_space():
    listed = rows(ENVIRONMENT, "Actions")
    assert set(listed) == set(CONTROLS)
    for name, row in listed.items():
        shape = str(make_control(name, frames=8).space.shape).replace("8", "F")
        assert shape in row[1], name


def test_reference_names_every_key_of_observation_and_info():
    env = gymnasium.make("Mirage/PointNav-v0", observe=EXTRAS, info_frames=True)
    observation, _ = env.reset(seed=0)
    listed = rows(ENVIRONMENT, "Observations")
    assert set(listed) == set(observation)
    for name in set(listed) - {"goal"}:
        assert listed[name][1].startswith(str(observation[name].dtype)), name
    env = gymnasium.make("Mirage/World-v0", info_frames=True)
    assert set(rows(ENVIRONMENT, "Info")) == set(env.reset(seed=0)[1])


def test_reference_names_every_option_of_reset():
    listed = rows(ENVIRONMENT, "Reset")
    mirage, rooms = set(MirageEnv.world_options), set(RoomsEnv.world_options)
    worlds = {name: {"`Mirage/...`": {"mirage"}, "`Rooms/...`": {"rooms"}}.get(row[1]) for name, row in listed.items()}
    assert {name for name, where in worlds.items() if where != {"rooms"}} == mirage
    assert {name for name, where in worlds.items() if where != {"mirage"}} == rooms


def test_reference_names_methods_that_are_there():
    for call in rows(ENVIRONMENT, "Saving, forking, going back"):
        name, _, arguments = call.removesuffix(")").partition("(")
        parameters = inspect.signature(getattr(MirageEnv, name)).parameters
        assert not arguments or arguments in parameters, call


def test_every_question_is_answered_with_a_place_to_read_on():
    _, *sections = re.split(r"^## ", (ROOT / "docs/faq.md").read_text(), flags=re.MULTILINE)
    assert len(sections) >= 12
    for section in sections:
        question, _, answer = section.partition("\n")
        assert question.endswith(("?", "work")), question
        assert re.search(r"\]\(|`(?:mirage|tests/)", answer) or "licence" in question, question
