"""Every example runs, in a short setting, and tells what it says it tells."""

import runpy

import numpy as np
import pytest
from repository import ROOT
from small_pictures import small_pictures

SHORT = {
    "01_hello_world": ("--steps 2 --out {out}", ["points", "the fork has seen 3 chunks, the original 2"]),
    "02_look_into_the_memory": ("--views 2 --out {out}", ["view 1:", "% known"]),
    "03_record": ("--episodes 1 --steps 2 --out {out}", ["'steps': 2", "17 frames", "episode_0000.mp4"]),
    "04_roll_out_a_policy": ("--steps 1", ["step 1:", "dB against the true view"]),
    "05_plan_in_imagination": ("--episodes 1 --steps 2 --samples 16", ["planner, seed 0", "random, seed 0", "SPL"]),
    "06_train_in_imagination": (
        "--steps 2 --worlds 2 --rollout 1 --episodes 1 --length 1 --out {out}",
        ["Mirage/PointNav-v0: success", "Rooms/PointNav-v0: success", "looks at goal"],
    ),
    "07_offline_rollouts": (
        "--caches 1 --episodes 2 --steps 1 --out {out}",
        ["rollout 1:", "the same bit for bit", "the same episodes: True"],
    ),
    "08_tree_search": ("--depth 1 --width 1", ["9 forks", "m left"]),
    "09_train_with_rllib": ("--iterations 1 --batch 4 --minibatch 2", ["iteration 0: return"]),
}


def test_every_example_is_listed():
    assert sorted(path.stem for path in (ROOT / "examples").glob("*.py")) == sorted(SHORT)


@pytest.mark.parametrize("name", SHORT)
def test_example_runs(name, tmp_path, capsys, monkeypatch):
    if name == "09_train_with_rllib":
        pytest.importorskip("ray.rllib", exc_type=ImportError)
    arguments, says = SHORT[name]
    given = arguments.format(out=tmp_path / "out").split()
    monkeypatch.setattr("sys.argv", [f"{name}.py", *given])
    monkeypatch.chdir(tmp_path)
    np.random.seed(0)  # noqa: NPY002  (nothing may depend on it)
    with small_pictures():
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    told = capsys.readouterr().out
    for words in says:
        assert words in told


@pytest.mark.parametrize("name", SHORT)
def test_example_is_short(name):
    lines = (ROOT / "examples" / f"{name}.py").read_text().splitlines()
    assert len(lines) <= 85, f"{len(lines)} lines; an example is about 60"
