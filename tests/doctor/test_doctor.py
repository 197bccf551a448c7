"""Each check sees what it looks for, says what to do, and only what keeps Mirage from working is a problem."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
from repository import ROOT
from small_pictures import small_pictures

from mirage_env import doctor
from mirage_env.cli import main
from mirage_env.doctor import Finding, installation, machine

SHIPPED = ROOT / "mirage_env" / "weights"


def only(findings) -> Finding:
    [finding] = findings
    return finding


def levels(findings) -> list[str]:
    return [finding.level for finding in findings]


@pytest.mark.parametrize(
    ("findings", "level", "says"),
    [
        (machine.python((3, 10, 4), "linux"), "problem", "3.11 or later"),
        (machine.python((3, 12, 0), "darwin"), "note", "Linux only"),
        (machine.python((3, 13, 0), "linux"), "ok", "3.13.0"),
        (machine.torch("no_such_torch"), "problem", "pip install"),
        (machine.threads(8, 2), "note", "OMP_NUM_THREADS=2"),
        (machine.arithmetic(False), "note", "float32"),
        (machine.waiting("active"), "note", "OMP_WAIT_POLICY=PASSIVE"),
        (machine.waiting(""), "note", "not set"),
        (machine.waiting("passive"), "ok", "PASSIVE"),
        (machine.memory(0.3), "problem", "0.3 GiB available"),
        (machine.disk(free=0.01), "problem", "--out"),
        (machine.disk(free=1.0), "note", "take more"),
        (machine.disk(ROOT / "no_such_folder"), "note", "cannot be written"),
        (machine.gpu([]), "note", "docs/full_size.md"),
        (
            machine.gpu([("Small", 3.0, 8.0)]),
            "note",
            "3 of 8 GiB free: a full-size model wants 25 GiB, or 12 with offloading",
        ),
        (machine.gpu([("Large", 78.0, 80.0)]), "ok", "Large"),
        (machine.browser(path=""), "note", "apt install chromium"),
        (installation.libraries(["no_such_library"]), "problem", "constraints.txt"),
        (installation.weights(ROOT / "tests"), "problem", "install the package again"),
        (installation.video(lambda: "/bin/false"), "problem", "IMAGEIO_FFMPEG_EXE"),
        (installation.video(lambda: "/no/such/ffmpeg"), "problem", "none that runs"),
        (
            installation.extras(['nonsense-x>=1; extra == "rl"']),
            "note",
            "lacks nonsense-x: pip install 'mirage-env[rl]'",
        ),
        (installation.walk("nowhere"), "problem", "no world model 'nowhere'"),
    ],
)
def test_check_sees_what_is_wrong(findings, level, says):
    finding = only(findings)
    assert finding.level == level
    assert says in str(finding)
    assert "\n" not in str(finding)
    assert bool(finding.advice) == (level != "ok")


def test_library_that_breaks_when_it_is_loaded_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('built for\\nanother torch')")
    monkeypatch.syspath_prepend(tmp_path)
    finding = only(installation.libraries(["broken_library"]))
    assert finding.level == "problem"
    assert "built for another torch" in str(finding)


def test_damaged_weights_are_named(tmp_path):
    folder = shutil.copytree(ROOT / "benchmarks/evaluation/rooms-paper", tmp_path / "rooms-paper").parent
    assert levels(installation.weights(folder)) == ["ok"]
    files = sorted(folder.rglob("*.safetensors"))
    for file, damage in zip(files, (lambda b: b[:-1], lambda b: b[:4], lambda b: b[:8] + b"x" + b[9:]), strict=False):
        whole = file.read_bytes()
        file.write_bytes(damage(whole))
        finding = only(installation.weights(folder))
        assert finding.level == "problem"
        assert str(file.relative_to(folder)) in finding.says
        file.write_bytes(whole)
    assert levels(installation.weights(folder)) == ["ok"]


def test_place_without_room_for_compiled_kernels_is_a_problem():
    code = (
        "from numba.core import caching; caching.CacheImpl._locator_classes = []\n"
        "from mirage_env.doctor import installation; print(*installation.kernels())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("problem")
    assert "NUMBA_CACHE_DIR" in done.stdout
    assert levels(installation.kernels()) == ["ok"]


def test_ros_is_real_missing_or_a_name_only(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "rclpy", None)
        finding = only(installation.ros())
        assert finding.level == "note"
        assert "pip install 'mirage-env[ros]'" in finding.says
    (tmp_path / "rclpy").mkdir()
    (tmp_path / "rclpy" / "__init__.py").touch()
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]\n"
    code += "from mirage_env.doctor import installation; print(*installation.ros())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("problem")
    assert "is not the rclpy of ROS 2" in done.stdout


def test_extra_that_names_others_has_their_packages():
    lines = ['mirage-env[bag]; extra == "ros"', 'numpy>=2; extra == "ros"', 'absent>=1; extra == "bag"']
    found = {finding.what: finding for finding in installation.extras(lines)}
    assert set(found) == {"[bag]", "[ros]"}
    assert "absent" in found["[ros]"].says
    assert "numpy" not in found["[ros]"].says


def test_every_extra_is_explained():
    text = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    names = {line.partition(" = ")[0] for line in text.splitlines() if " = [" in line}
    assert names == set(installation.EXTRAS)


@pytest.mark.parametrize(("memory", "code"), [(0.1, 1), (8.0, 0)])
def test_exit_code_is_one_only_for_problems(memory, code, monkeypatch, capsys):
    checks = (partial(machine.memory, memory), partial(machine.gpu, []))
    monkeypatch.setattr(doctor, "CHECKS", checks)
    assert main(["doctor", "--details"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1] == ("1 problem, 1 note" if code else "no problems, 1 note")


def test_report_is_short_and_its_details_are_complete(monkeypatch, capsys):
    found = [Finding("ok", f"part {i}", "there") for i in range(20)]
    found += [Finding("note", f"[extra{i}]", "lacks a package", "pip install it") for i in range(15)]
    found += [Finding("note", "GPU", "none", "read on"), Finding("problem", "weights", "damaged", "install again")]
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter(found),))
    assert main(["doctor"]) == 1
    short = capsys.readouterr().out.splitlines()
    assert len(short) <= 10
    for name in ("part 0", "part 19", "extra0", "extra14", "GPU", "install again", "--details"):
        assert any(name in line for line in short), name
    assert main(["doctor", "--details"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == len(found) + 1


def test_this_machine_is_described_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {"Python", "PyTorch", "weights", "disk", "ffmpeg", "ROS 2", "[viewer]"} <= {entry["what"] for entry in found}
    assert code == any(entry["level"] == "problem" for entry in found)
    assert all(set(entry) == {"level", "what", "says", "advice"} for entry in found)


ELSEWHERE = """
import os, sys, warnings
from pathlib import Path
sys.modules["fcntl"] = None
del os.sched_getaffinity
warnings.simplefilter("ignore")  # filelock says that it has no locks of the kernel
from mirage_env.doctor.machine import disk, memory, python, usable_cores
from mirage_env.files import new_file, replaced_folder
from mirage_env.files.locks import try_lock
assert usable_cores() == os.cpu_count()
assert len([found for check in (python, memory, disk) for found in check()]) == 3
held = try_lock(Path("lock"))
assert held is not None and try_lock(Path("lock")) is None
held.release()
assert try_lock(Path("lock")) is not None
with new_file(Path("a")) as file:
    file.write_text("whole")
for _ in range(2):
    with replaced_folder(Path("b")) as folder:
        (folder / "c").write_text("whole")
print(*sorted(os.listdir()))
"""


def test_files_locks_and_doctor_work_without_fcntl_and_affinity(tmp_path):
    """As on Windows and macOS, as far as a simulation can say."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", ELSEWHERE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) - {"lock", "lock.lease"} == {"a", "b"}


def test_it_walks_with_the_shipped_model():
    with small_pictures():
        finding = only(installation.walk())
    assert finding.level == "ok"
    assert "frames/s" in finding.says
