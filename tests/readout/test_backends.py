"""The implementations of the readout agree to the bit, alone and for the worlds of a batch."""

import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import CONFIGS, GRID, NEAR, block_of, cloud, readouts, views

from mirage_env.errors import InvalidOptionError, MissingPackageError
from mirage_env.readout import backends, device_tiles, zbuffer_numba
from mirage_env.readout.zbuffer import Rule, Splat, gather
from mirage_env.tokens.blocks import MemoryBlock

CPU = torch.device("cpu")


def assert_identical(found: Splat, expected: Splat) -> None:
    for field in fields(Splat):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=field.name)


@readouts
@given(seed=st.integers(0, 10_000), count=st.integers(1, 400), blocks=st.integers(1, 6))
def test_torch_and_numba_agree_to_the_bit(config, seed, count, blocks):
    rng = np.random.default_rng(seed)
    scene = cloud(rng, count, blocks), views(rng), GRID, Rule.of(config, NEAR), 1
    assert_identical(backends.load("torch")(*scene), backends.load("numba")(*scene))


@readouts
def test_torch_and_numba_agree_on_large_grids_and_tiny_or_huge_footprints(config, rng):
    xyz, size = rng.uniform(-4.0, 4.0, (4000, 3)), 10.0 ** rng.uniform(-8.0, 5.0, 4000).clip(-8.0, 4.5)
    scene = [block_of(xyz, size)], views(rng), (44, 80), Rule.of(config, NEAR), 1
    assert_identical(backends.load("torch")(*scene), backends.load("numba")(*scene))


@readouts
@pytest.mark.parametrize("name", ["numba", "torch"])
def test_merging_changes_no_winner(config, name, rng):
    for _ in range(10):
        blocks, cameras = cloud(rng, 300, 5), views(rng)
        old, newer = blocks[:1], blocks[1:]
        rule, splat = Rule.of(config, NEAR), backends.load(name)
        apart = splat(blocks, cameras, GRID, rule, 1)
        merged = splat([*old, MemoryBlock.join(newer)], cameras, GRID, rule, 1)
        for field in ("depth", "offset", "scale"):
            np.testing.assert_array_equal(getattr(merged, field), getattr(apart, field))
        before = np.cumsum([0, *(len(b) for b in newer[::-1])])[:-1][::-1]  # of each block in the merged one
        place = np.where(apart.block > 0, apart.token + before[apart.block - 1], apart.token)
        np.testing.assert_array_equal(merged.block, np.minimum(apart.block, 1))
        np.testing.assert_array_equal(merged.token, np.where(apart.observed, place, -1))


@pytest.mark.parametrize("name", ["numba", "torch"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_of_worlds_reads_as_each_world_alone(name, threads, rng):
    scenes = [cloud(rng, 200), [], cloud(rng, 30, 1), cloud(rng, 300, 6)]
    cameras = [views(rng, 2) for _ in scenes]
    rule = Rule.of(CONFIGS["best_fit-two_layers"], NEAR)
    together = backends.splat_many(scenes, cameras, GRID, rule, threads, name)
    for found, blocks, seen in zip(together, scenes, cameras, strict=True):
        assert_identical(found, backends.load(name)(blocks, seen, GRID, rule, 1))
    assert_identical(backends.splat_many(scenes[-1:], cameras[-1:], GRID, rule, threads, name)[0], together[-1])


def test_threads_share_the_kernels_of_one(rng, monkeypatch):
    """Compiling them takes seconds."""
    monkeypatch.setattr(zbuffer_numba, "THREADED_FROM", 1)
    blocks, seen, rule = cloud(rng, 50), views(rng, 3), Rule.of(CONFIGS["best_fit-two_layers"], NEAR)
    kernels = (zbuffer_numba._scan, zbuffer_numba._choose)
    alone = backends.load("numba")(blocks, seen, GRID, rule, 1)
    compiled = [list(kernel.signatures) for kernel in kernels]
    assert_identical(backends.load("numba")(blocks, seen, GRID, rule, 2), alone)
    assert [list(kernel.signatures) for kernel in kernels] == compiled


@pytest.mark.parametrize("features", ["int8", "float16"])
def test_every_gather_gives_the_same_features(features, rng):
    blocks = [
        block_of(rng.uniform(-4, 4, (150, 3)), rng.uniform(0.1, 1.0, 150), i, rng.normal(0, 1, (150, 5)), features)
        for i in range(3)
    ]
    found = backends.load("numba")(blocks, views(rng), GRID, Rule.of(CONFIGS["nearest-two_layers"], NEAR), 1)
    feature, born = gather(blocks, found)
    for name in ("auto", "numba", "torch"):
        values, births = backends.gather_on(blocks, found, name)
        np.testing.assert_array_equal(values.numpy(), feature)
        np.testing.assert_array_equal(births.numpy(), born)


TRITON = """
import numpy as np
import torch
from dataclasses import fields
from scenes import CONFIGS, GRID, NEAR, block_of, cloud, views
from mirage_env.readout import backends
from mirage_env.readout.zbuffer import Rule, Splat, gather

def assert_identical(found, expected):
    for field in fields(Splat):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=field.name)

rng = np.random.default_rng(0)
half = block_of(rng.uniform(-4, 4, (70, 3)), rng.uniform(0.1, 1.0, 70), 9, rng.normal(0, 1, (70, 3)), "float16")
scenes = [cloud(rng, 70, 3), [], [*cloud(rng, 40), half]]
cameras = [views(rng, 2) for _ in scenes]
for config in CONFIGS.values():
    rule = Rule.of(config, NEAR)
    together = backends.splat_many(scenes, cameras, GRID, rule, 1, "triton")
    for found, blocks, seen in zip(together, scenes, cameras):
        assert_identical(found, backends.load("numba")(blocks, seen, GRID, rule, 1))
        feature, born = gather(blocks, found)
        values, births = backends.gather_on(blocks, found, "triton")
        np.testing.assert_array_equal(values.numpy(), feature)
        np.testing.assert_array_equal(births.numpy(), born)
    assert_identical(backends.load("triton")(scenes[2], cameras[2], GRID, rule, 1), together[2])
    assert_identical(backends.load("triton")([], cameras[2], GRID, rule, 1), Splat.empty(2, GRID))
"""


def test_triton_and_numba_agree_to_the_bit():
    pytest.importorskip("triton")
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests.parent), str(tests / "helpers"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    # Triton decides when it is imported whether to interpret.
    done = subprocess.run([sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_triton_kernels_compile_for_hopper_without_fused_or_rounded_down_arithmetic():
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mirage_env.readout import triton_kernels, zbuffer_triton

    constants = {"STEP": 1, "FIT": True, "LAYERS": 2, "MOST": 5, "GROUP": 16, "TILE": 64}
    kinds = {
        **dict.fromkeys(("count", "visible", "stride", "tokens", "world", "depths"), "*i32"),
        **dict.fromkeys(("xyz", "footprint", "keys"), "*i64"),
        **dict.fromkeys(("focal", "folded"), "*fp32"),
        **dict.fromkeys(("total", "views", "h", "w"), "i32"),
        **dict.fromkeys(("near", "widen", "reach", "widest"), "fp32"),
    }
    names = triton_kernels.enter.arg_names
    source = ASTSource(
        fn=triton_kernels.enter,
        signature={name: kinds.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=zbuffer_triton.EXACT).asm["ptx"]
    for exact in ("div.rn.f32", "sqrt.rn.f32", "min.s64"):
        assert exact in ptx
    # Floor and ceiling flush what is subnormal; multiples of 2^-25, which they are given, never are.
    for rounded in ("fma.", "div.full", "div.approx", "sqrt.approx", "mul.ftz", "add.ftz", "sub.ftz", "div.rn.ftz"):
        assert rounded not in ptx


def test_auto_takes_numba_on_the_cpu_and_what_can_run_on_cuda(monkeypatch):
    cuda = torch.device("cuda", 0)
    assert backends.resolve("auto") == "numba"
    monkeypatch.setattr(backends, "find_spec", lambda name: True)
    monkeypatch.setattr(backends, "_compiler", lambda: True)
    assert backends.resolve("auto", cuda) == "triton"
    monkeypatch.setattr(backends, "_compiler", lambda: False)
    assert backends.resolve("auto", cuda) == "torch"
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert backends.resolve("auto", cuda) == "torch"
    with pytest.raises(MissingPackageError, match="pip install 'triton"):
        backends.load("triton", cuda)


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("cupy", "cpu", "choose one of"),
        ("numba", "cuda:0", "runs on the CPU, not on cuda:0"),
        ("triton", "cpu", "runs on CUDA, not on cpu"),
    ],
)
def test_a_backend_that_cannot_run_is_refused_with_the_reason(name, device, message, monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda name: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InvalidOptionError, match=message):
        backends.load(name, torch.device(device))


def test_an_array_is_copied_to_a_device_once_and_no_longer_than_its_block_lives(rng):
    (block,) = cloud(rng, 50, 1)
    before = len(device_tiles._copies)
    copy = device_tiles.on_device(block.xyz, CPU)
    confirmed = block.with_confidence(block.confidence + 1)
    assert device_tiles.on_device(confirmed.xyz, CPU) is copy
    assert replace(confirmed).xyz is block.xyz
    assert len(device_tiles._copies) == before + 1
    del block, confirmed
    assert len(device_tiles._copies) == before
