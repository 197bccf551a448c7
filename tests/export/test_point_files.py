"""Clouds, splats and meshes of a world: opened by others, they hold the world's points in its colours."""

import numpy as np
import pytest
import trimesh
from plyfile import PlyData
from stand_ins import picture
from tiny import tiny_world_model

from mirage_env import cli, save_world
from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError, MissingPackageError
from mirage_env.export import Patches, patches_of, save_mesh, save_pcd, save_ply, save_splat
from mirage_env.memory.latent import LatentMemory
from mirage_env.poses import pose_from_rotation_vector, rotation_from_quaternion


@pytest.fixture(scope="module")
def model():
    return tiny_world_model()


@pytest.fixture(scope="module")
def state(model):
    """A wall 3 m before a tilted camera."""
    pose = pose_from_rotation_vector([1.0, 2.0, 0.5], [0.1, 0.6, -0.2])
    camera = Camera.from_fov(1.2, 32, 32, pose)
    return model.start(picture(), camera, np.full((32, 32), 3.0), labels=np.zeros((32, 32), int))[1]


@pytest.fixture(scope="module")
def patches(model, state) -> Patches:
    return patches_of(state.memory, model.codec)


def test_patches_tile_the_surface_that_was_seen(state, patches):
    points = (patches.xyz - state.camera.position) @ state.camera.T_world_cam[:3, :3]
    assert len(patches) == 4 * state.memory.points
    np.testing.assert_allclose(points[:, 2], 3.0, atol=1e-3)
    width = 2 * 3.0 * np.tan(0.6)
    np.testing.assert_allclose(patches.size**2 @ np.ones(len(patches)), width**2, rtol=0.01)
    place = np.unique(np.round(points[:, 0] / patches.size[0], 2))
    np.testing.assert_allclose(np.diff(place), 1.0, atol=0.02)


@pytest.mark.parametrize("parts", [0, 3])
def test_patches_of_other_parts_or_of_nothing_are_refused(model, state, parts):
    with pytest.raises(InvalidOptionError, match="parts"):
        patches_of(state.memory, model.codec, parts)
    with pytest.raises(InvalidOptionError, match="holds no"):
        patches_of(LatentMemory.empty(model.config), model.codec)


def test_ply_is_read_by_plyfile_and_trimesh(patches, tmp_path):
    file = save_ply(patches, tmp_path / "world.ply")
    vertices = PlyData.read(file)["vertex"]
    np.testing.assert_allclose(np.stack([vertices[n] for n in "xyz"], 1), patches.xyz, atol=1e-5)
    assert np.array_equal(np.stack([vertices[n] for n in ("red", "green", "blue")], 1), patches.colours)
    normals = np.stack([vertices[n] for n in ("nx", "ny", "nz")], 1)
    np.testing.assert_allclose(normals, -patches.R_world_patch[:, :, 2], atol=1e-6)
    cloud = trimesh.load(file)
    np.testing.assert_allclose(cloud.vertices, patches.xyz, atol=1e-5)
    assert np.array_equal(cloud.colors[:, :3], patches.colours)


def test_splat_has_the_fields_of_3d_gaussians(patches, tmp_path):
    vertices = PlyData.read(save_splat(patches, tmp_path / "world.ply"))["vertex"]
    colour = 0.5 + 0.28209479177387814 * np.stack([vertices[f"f_dc_{i}"] for i in range(3)], 1)
    np.testing.assert_allclose(255 * colour, patches.colours, atol=1e-3)
    opacity = 1 / (1 + np.exp(-vertices["opacity"]))
    assert ((opacity > 0.9) & (opacity < 1)).all()
    scales = np.exp(np.stack([vertices[f"scale_{i}"] for i in range(3)], 1))
    np.testing.assert_allclose(scales[:, 0], 0.6 * patches.size, rtol=1e-5)
    assert (scales[:, 2] < 0.2 * scales[:, 0]).all()
    R = np.asarray(rotation_from_quaternion(np.stack([vertices[f"rot_{i}"] for i in range(4)], 1).astype(float)))
    np.testing.assert_allclose(R, patches.R_world_patch, atol=1e-5)


def test_pcd_is_what_the_specification_says(patches, tmp_path):
    data = save_pcd(patches, tmp_path / "world.pcd").read_bytes()
    head, body = data.split(b"DATA binary\n")
    said = dict(line.split(" ", 1) for line in head.decode().splitlines() if not line.startswith("#"))
    assert (said["FIELDS"], said["POINTS"], said["TYPE"]) == ("x y z rgb", str(len(patches)), "F F F U")
    rows = np.frombuffer(body, [("xyz", "<f4", 3), ("bgr", "u1", 4)])
    np.testing.assert_allclose(rows["xyz"], patches.xyz, atol=1e-5)
    assert np.array_equal(rows["bgr"][:, 2::-1], patches.colours)


def test_clouds_are_read_by_open3d(patches, tmp_path):
    o3d = pytest.importorskip("open3d", exc_type=ImportError)
    for file in (save_pcd(patches, tmp_path / "w.pcd"), save_ply(patches, tmp_path / "w.ply")):
        cloud = o3d.io.read_point_cloud(str(file))
        np.testing.assert_allclose(np.asarray(cloud.points), patches.xyz, atol=1e-5)
        np.testing.assert_allclose(255 * np.asarray(cloud.colors), patches.colours, atol=1)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_mesh_has_the_area_colours_and_front_of_the_surface(state, patches, tmp_path, kind):
    mesh = trimesh.load(save_mesh(patches, tmp_path / f"w.{kind}"), force="mesh", process=False)
    assert mesh.area == pytest.approx(float((patches.size**2).sum()), rel=1e-4)
    towards = np.einsum("ij,ij->i", mesh.face_normals, state.camera.position - mesh.triangles_center)
    assert (towards > 0).all()
    assert np.abs(np.asarray(mesh.visual.vertex_colors)[:, :3].mean(0) - patches.colours.mean(0)).max() < 2


def test_mesh_without_its_package_or_with_an_unknown_ending_is_refused(patches, tmp_path, monkeypatch):
    with pytest.raises(InvalidOptionError, match="ending"):
        save_mesh(patches, tmp_path / "w.xyz")
    monkeypatch.setitem(__import__("sys").modules, "trimesh", None)
    with pytest.raises(MissingPackageError, match=r"mirage-env\[mesh\]"):
        save_mesh(patches, tmp_path / "w.glb")


@pytest.mark.parametrize("kind", ["ply", "pcd", "splat", "glb", "map"])
def test_command_writes_a_saved_world(model, state, tmp_path, capsys, monkeypatch, kind):
    save_world(tmp_path / "world.zarr", state, model)
    monkeypatch.setattr("mirage_env.models.world_model_loader.load_world_model", lambda name: model)
    out = tmp_path / f"out/room.{ {'map': 'yaml', 'glb': 'glb'}.get(kind, 'ply') }"
    floor = ["--floor", "-1.0"] if kind == "map" else []
    assert cli.main(["export", str(tmp_path / "world.zarr"), "--to", kind, "--out", str(out), *floor]) == 0
    assert str(out) in capsys.readouterr().out
    assert out.stat().st_size > 100
    assert cli.main(["export", str(tmp_path / "world.zarr"), "--out", str(tmp_path / "x")]) == 2
    assert "--to ply" in capsys.readouterr().err
