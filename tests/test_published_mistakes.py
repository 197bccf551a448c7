"""Nine mistakes of the published code of the method, as properties that ours has.

Each check is also run on a small imitation of the mistake, to show that it can fail. Details of each property are
tested in the module's own test file.
"""

import sys
import warnings
from dataclasses import fields, replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stand_ins import Recorder, Written, path, picture, walled_world_model
from tiny import tiny_world_model
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.config.sampler import SamplerConfig
from mirage_env.config.world import GateConfig, MemoryConfig, ReadoutConfig, WorldModelConfig
from mirage_env.errors import WeightsError
from mirage_env.interfaces import MOVER, STATIC
from mirage_env.memory import latent as memory_module
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.lifting import depth_to_grid, lift
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.world_model_loader import load_world_model, save_world_model
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.readout import zbuffer_numba
from mirage_env.readout.zbuffer import Rule
from mirage_env.store import load_world, save_world
from mirage_env.tokens.blocks import Frames, MemoryBlock
from mirage_env.tokens.packing import Tokens, pack
from mirage_env.world_model import WorldModel

GRID, NEAR = (6, 8), 0.25
CAMERA = Camera.from_fov(1.2, 48, 64)
NEAREST = ReadoutConfig(winner="nearest", footprint=0.0)


def block_of(xyz: np.ndarray, feature: np.ndarray) -> MemoryBlock:  # [N, 3], [N, C]
    """Tokens as a memory keeps them, numbered by their cell."""
    count = len(xyz)
    size, none = np.full(count, 0.01, np.float32), np.zeros(count, int)
    return pack(
        Tokens(xyz, feature, size, none, np.arange(count), Frames.of([CAMERA], GRID, 0)), born=0, features="float16"
    )


def fails(check, *args) -> None:
    """The check sees the mistake."""
    with pytest.raises(AssertionError):
        check(*args)


# 1


def test_nearest_depth_and_its_own_feature_win_on_any_number_of_threads(rng, monkeypatch):
    """Published: far-to-near order and assignment with repeated indices, once for depth and once for features."""
    monkeypatch.setattr(zbuffer_numba, "THREADED_FROM", 1)
    monkeypatch.setattr(memory_module.torch, "get_num_threads", lambda: 4)
    place = rng.uniform([0.0, 0.0, 1.0], [8.0, 6.0, 9.0], (4000, 3))  # cells and metres, about 80 points a cell
    q = np.linalg.inv(CAMERA.K_at(*GRID)) @ (np.c_[place[:, :2], np.ones(4000)] * place[:, 2:]).T
    z, cell = place[:, 2].astype(np.float32), place[:, 1].astype(int) * 8 + place[:, 0].astype(int)
    feature = rng.normal(size=(4000, 3)).astype(np.float16)

    def check(depth: np.ndarray, latent: np.ndarray) -> None:  # [48], [48, 3]
        for c in range(48):
            nearest = np.flatnonzero(cell == c)[z[cell == c].argmin()]
            assert depth[c] == pytest.approx(z[nearest], rel=1e-5)
            np.testing.assert_array_equal(latent[c], feature[nearest])

    block = block_of(q.T, feature.astype(np.float32))
    memory = LatentMemory(GRID, 3, NEAR, NEAREST, GateConfig(), MemoryConfig(), (block,))
    found = memory.read([CAMERA] * 6, now=0)
    for view in range(6):
        check(found.depth[view].numpy().ravel(), found.latent[view].flatten(1).T.numpy())

    depth, latent = np.zeros(48, np.float32), np.zeros((48, 3), np.float16)
    order = np.argsort(-z)
    depth[cell[order]], latent[cell[order]] = z[order], feature[order]
    check(depth, latent)  # right as long as the last write wins
    for values, target in ((z, depth), (feature, latent)):
        raced = rng.permutation(4000)  # what PyTorch may make of the same assignment, another order each time
        target[cell[raced]] = values[raced]
    fails(check, depth, latent)


# 2


def test_depth_is_tested_before_anything_is_divided_by_it():
    """Published: x / z, then z > 0."""
    z = np.float32([-3.0, -1e-30, -0.0, 0.0, 1e-45, 1e-38, NEAR, 2.0])
    xyz = np.stack([np.full_like(z, 1e3), np.full_like(z, 1e3), z], 1)
    xyz[-1] = 0.0, 0.0, 2.0

    block = block_of(xyz.astype(np.float64), np.zeros((len(z), 1), np.float32))

    def check(project) -> None:
        with warnings.catch_warnings(record=True) as raised, np.errstate(all="warn"):
            warnings.simplefilter("always")
            seen = project()
        assert not raised
        np.testing.assert_array_equal(seen, [len(z) - 1])

    def ours() -> np.ndarray:
        found = zbuffer_numba.splat_numba([block], [CAMERA], GRID, Rule.of(NEAREST, NEAR), 1)
        return np.unique(block.cell[found.token[found.observed]])

    def published() -> np.ndarray:
        place = (xyz @ CAMERA.K_at(*GRID).T.astype(np.float32))[:, :2] / z[:, None]
        cells = place.astype(np.int64)
        return np.flatnonzero((z > NEAR) & (cells >= 0).all(1) & (cells < [8, 6]).all(1))

    check(ours)
    fails(check, published)


# 3


def test_cells_are_lifted_through_their_centres_and_land_in_themselves(rng):
    """Published: lift at integer cells, round at projection, but depth sampled at centres: half a cell off."""
    camera = CAMERA.at(pose_from_rotation_vector([0.3, -0.1, 0.2], [0.1, -0.2, 0.05]))
    normal, distance = np.array([0.4, -0.3, 1.0]), 2.0
    v, u = np.meshgrid(np.arange(6) + 0.5, np.arange(8) + 0.5, indexing="ij")
    rays = np.linalg.inv(camera.K_at(*GRID)) @ np.stack([u.ravel(), v.ravel(), np.ones(48)])
    depth = torch.from_numpy((distance / (normal @ rays)).reshape(GRID)).float()  # of a plane, at cell centres

    def check(points: np.ndarray) -> None:  # [48, 3] world
        q = points @ camera.T_cam_world[:3, :3].T + camera.T_cam_world[:3, 3]
        np.testing.assert_allclose(q @ normal, distance, rtol=1e-5)  # on the plane
        place = q @ camera.K_at(*GRID).T
        np.testing.assert_allclose(place[:, 0] / place[:, 2], u.ravel(), atol=1e-4)
        np.testing.assert_allclose(place[:, 1] / place[:, 2], v.ravel(), atol=1e-4)

    check(lift(depth, camera))
    K = camera.K_at(*GRID)
    K[:2, 2] += 0.5  # integer cells
    published = camera.T_world_cam[:3, :3] @ (np.linalg.inv(K) @ np.stack([u.ravel(), v.ravel(), np.ones(48)]))
    fails(check, (published * depth.numpy().ravel()).T + camera.position)


# 4


def test_the_network_gets_the_visibility_mask():
    """Published: no mask at inference."""
    model = walled_world_model()
    recorder = Recorder(model.generator)
    _, state = model.start(picture())
    chunk, _ = replace(model, generator=recorder).step(state, path(state.camera, turn=1.0))
    told = recorder.of("generate")[0][1]
    assert torch.equal(told["readout"][0].observed[1:], chunk.readout.observed)
    assert 0.0 < chunk.coverage < 1.0

    def check(generator: ChunkDenoiser) -> None:
        made = []
        for observed in (told["readout"][0].observed, torch.ones(5, 4, 4)):
            readout = [replace(told["readout"][0], observed=observed)]
            with torch.inference_mode():
                generators = [torch.Generator().manual_seed(0)]
                made.append(generator.generate(told["known"], readout, told["rays"], told["preceding"], generators))
        assert not torch.equal(*made)

    check(model.generator)
    blind = ControlBranch.from_transformer(model.generator.transformer, ("known", "rays"), (0,))
    fails(check, ChunkDenoiser(model.generator.transformer, blind, SamplerConfig(steps=1, couple=False)).eval())


def test_frames_are_filtered_and_encoded_again_before_they_are_remembered():
    """Published: no dynamic or sky filter at the update, and the generated latents go into the memory as they are."""

    class Unfiltered(WorldModel):
        def _keep(self, depth, labels):
            return torch.ones(len(depth), *self.config.latent_size, dtype=torch.bool)

    class NotEncodedAgain(WorldModel):
        def _remember(self, state, chunk, splat):
            written = chunk.latents, chunk.frames, chunk.depth, chunk.keep, chunk.cameras
            return replace(state, memory=state.memory.write(*written, state.chunk + 1))

    labels = torch.full((32, 32), STATIC)
    labels[:, :16] = MOVER

    def check(cls: type[WorldModel]) -> None:
        codec, written = Recorder(tiny_world_model().codec), Written()
        parts = walled_world_model(labels, codec=codec, memory_factory=written)
        model = cls(**{f.name: getattr(parts, f.name) for f in fields(WorldModel)})
        _, state = model.start(picture())
        chunk, _ = model.step(state, path(state.camera))
        _, write = written.writes
        (images,), _, encoded = codec.of("encode")[-1]
        assert torch.equal(images, chunk.frames)
        assert torch.equal(images, codec.of("decode_chunk")[-1][2])
        assert torch.equal(write["latents"], encoded)
        assert not torch.equal(write["latents"], chunk.latents)
        assert not write["keep"][:, :, :2].any()
        assert write["keep"][:, :, 2:].all()

    check(WorldModel)
    fails(check, Unfiltered)
    fails(check, NotEncodedAgain)


# 5


def test_no_point_floats_between_two_surfaces():
    """Published: bilinear depth."""
    depth = torch.full((48, 64), 9.0)
    depth[18:, 20:] = 1.0

    def check(grid_depth: Tensor) -> None:
        assert np.isin(lift(grid_depth, CAMERA)[:, 2], [1.0, 9.0]).all()

    check(depth_to_grid(depth, GRID))
    fails(check, F.interpolate(depth[None, None], size=GRID, mode="bilinear")[0, 0])
    fails(check, F.avg_pool2d(depth[None, None], 8)[0, 0])


# 6


def test_no_view_is_written_twice():
    """Published: the first chunk writes the first frame, which the start has written already."""

    class WritesTheSharedFrame(WorldModel):
        def _remember(self, state, chunk, splat):
            after = super()._remember(state, chunk, splat)
            images = torch.cat([chunk.frames[:1], chunk.frames])
            depth, keep = (torch.cat([x[:1], x]) for x in (chunk.depth, chunk.keep))
            cameras = (state.camera, *chunk.cameras)
            return replace(
                after, memory=state.memory.write(self.codec.encode(images), images, depth, keep, cameras, after.chunk)
            )

    def check(cls: type[WorldModel]) -> None:
        written = Written()
        parts = walled_world_model(memory_factory=written)
        model = cls(**{f.name: getattr(parts, f.name) for f in fields(WorldModel)})
        _, state = model.start(picture())
        for _ in range(3):
            _, state = model.step(state, path(state.camera))
        assert [len(w["cameras"]) for w in written.writes] == [1, 4, 4, 4]
        assert [len(w["latents"]) for w in written.writes] == [1, 4, 4, 4]
        poses = np.stack([c.T_world_cam for w in written.writes for c in w["cameras"]])
        assert len(np.unique(poses, axis=0)) == len(poses)

    check(WorldModel)
    fails(check, WritesTheSharedFrame)


# 7


def test_memory_grows_with_the_ground_seen_and_not_with_the_steps_taken(monkeypatch):
    """Published: no de-duplication, no eviction."""
    K = np.linalg.inv(CAMERA.K_image)
    v, u = np.meshgrid(np.arange(48) + 0.5, np.arange(64) + 0.5, indexing="ij")
    rays = np.einsum("ij,jhw->ihw", K, np.stack([u, v, np.ones_like(u)]))
    depth = torch.from_numpy(4.0 / np.linalg.norm(rays, axis=0)).float()[None]  # inside a sphere
    circle = [CAMERA.at(pose_from_rotation_vector(np.zeros(3), [0.0, a, 0.0])) for a in np.arange(12) * np.pi / 6]
    latents, keep = torch.zeros(1, 2, *GRID), torch.ones(1, *GRID, dtype=torch.bool)

    def check(memory: LatentMemory) -> None:
        points = [0]
        for born, camera in enumerate(circle * 3):
            memory = memory.write(latents, torch.zeros(1, 3, 48, 64), depth, keep, [camera], born)
            points.append(memory.points)
        assert points[12] < 0.7 * 12 * 48  # neighbouring views share what they see
        assert points[36] - points[12] <= 0.05 * points[12]
        if memory.layout.max_bytes:
            assert memory.nbytes <= memory.layout.max_bytes
            assert memory.blocks[0].pinned

    config = WorldModelConfig("circle", (48, 64), GRID, 2)
    check(LatentMemory.empty(config))
    check(LatentMemory.empty(replace(config, memory=MemoryConfig(merge_tokens=50, max_bytes=8000))))
    monkeypatch.setattr(memory_module, "new_cells", lambda blocks, shown, depth, *_: np.ones(depth.shape, bool))
    fails(check, LatentMemory.empty(config))


# 8


class Unpicklings:
    """Counts the classes and functions that any unpickler of this process looks up."""

    def __init__(self) -> None:
        self.count = 0
        sys.addaudithook(self._hear)  # hooks stay until the process ends; this one costs a comparison

    def _hear(self, event: str, _: object) -> None:
        self.count += event == "pickle.find_class"


UNPICKLINGS = Unpicklings()


def test_opening_a_cache_unpickles_nothing(tmp_path):
    """Published: `torch.load(weights_only=False)`, which runs what the file says."""
    model = walled_world_model()
    _, state = model.start(picture())
    _, state = model.step(state, path(state.camera))

    def check(load) -> None:
        before = UNPICKLINGS.count
        loaded = load()
        assert UNPICKLINGS.count == before
        assert loaded.memory.points == state.memory.points

    def published() -> object:
        ForkingPickler.loads(bytes(ForkingPickler.dumps(state.camera)))
        return state

    save_world(tmp_path / "world.zarr", state, model)
    check(lambda: load_world(tmp_path / "world.zarr", model))
    fails(check, published)


# 9


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    """Published: `strict=False` and a printed count."""
    save_world_model(tiny_world_model(), tmp_path)
    load_world_model(tmp_path)

    def check(load, part: str) -> None:
        file = tmp_path / part / "diffusion_pytorch_model.safetensors"
        good = load_file(file)
        key = next(k for k, v in good.items() if v.dim() > 1)
        for change, named in (
            ({key: None}, f"missing {key}"),
            ({"module.extra": torch.zeros(1)}, "unexpected module.extra"),
            ({key: good[key][:1].clone()}, f"{key} has shape"),
        ):
            save_file({k: v for k, v in {**good, **change}.items() if v is not None}, file)
            refused = ""
            try:
                load(file)
            except WeightsError as error:
                refused = str(error)
            assert named in refused
        save_file(good, file)

    for part in ("codec", "depth", "segmentation", "refiner", "transformer", "control"):
        check(lambda _: load_world_model(tmp_path), part)

    def published(file: Path) -> None:
        module = tiny_world_model().codec
        own = module.state_dict()
        own.update({k: v for k, v in load_file(file).items() if k in own and v.shape == own[k].shape})
        module.load_state_dict(own)

    fails(check, published, "codec")
