"""Photographic rooms: meshes meet rays as the shapes they fill, furniture stands where it can, splits share nothing."""

from __future__ import annotations

import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from small_catalogue import FURNITURE, write_catalogue, write_photographs

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.rooms import Room, random_walk
from mirage_env.rooms.assets import inventory, locations
from mirage_env.rooms.assets.catalogue import Model, attribution, furniture
from mirage_env.rooms.assets.mesh_files import FACES, SMALL_FACES, load_mesh
from mirage_env.rooms.assets.photographs import paintings
from mirage_env.rooms.camera_poses import upright
from mirage_env.rooms.env import RoomsEnv
from mirage_env.rooms.mesh_arrays import Mesh, pack
from mirage_env.rooms.scene import Scene
from mirage_env.rooms.shading import BOX, MESH, SHELL

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """Furniture and photographs of the tests' own, in the place of what is installed."""
    folder = tmp_path_factory.mktemp("assets")
    write_catalogue(folder / "furniture" / "Boxes.sh3f")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIRAGE_FURNITURE", str(folder / "furniture"))
        patch.setenv("MIRAGE_PHOTOGRAPHS", str(write_photographs(folder / "photographs")))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        load_mesh.cache_clear()
        yield folder
    load_mesh.cache_clear()


@pytest.fixture(scope="module")
def models(assets) -> tuple[Model, ...]:
    return furniture(assets / "furniture")


@pytest.fixture(scope="module")
def cube(models) -> Mesh:
    mesh = load_mesh(next(model for model in models if model.role == "table"))
    assert mesh is not None
    return mesh


@pytest.fixture(scope="module")
def room(assets) -> Room:
    return Room.generate(5, "train", "photographic")


def boxed(scene: Scene, mesh: Mesh) -> Scene:
    """The scene with every box as a mesh that fills it."""
    kind = np.where(scene.kind == BOX, MESH, scene.kind)
    return replace(scene, kind=kind, meshes=pack([mesh], [], np.where(kind == MESH, 0, -1)))


def views_of(room: Room, seed: int) -> list[Camera]:
    """Cameras of a walk with a narrow, a wide and an uneven lens, and one within a hand of a thing."""
    cameras = [random_walk(room, np.random.default_rng(seed), 3, 40, 48, math.radians(fov))[-1] for fov in (45, 90)]
    uneven = replace(cameras[0], K_image=np.array([[30.0, 0.0, 20.0], [0.0, 36.0, 23.0], [0.0, 0.0, 1.0]]))
    return [*cameras, uneven, cameras[1].at(beside_a_box(room))]


def beside_a_box(room: Room) -> np.ndarray:
    """A pose within a hand of a box, which passes through the plane of the camera."""
    for box in room.scene.geometry[room.scene.kind == BOX]:
        for side in (-1, 1):
            away = side * (box[3] + 0.1)
            x, y, z = box[0] + box[6] * away, box[1] + box[7] * away, 1.2
            if room.is_free((x, y, z), 0.05):
                return upright(x, y, z, math.atan2(box[6], -box[7]), -0.3)
    raise AssertionError("no box has a free place beside it")


def only_boxes(scene: Scene) -> np.ndarray:
    """Numbers of the things that are boxes and nothing else."""
    numbers = scene.label[SHELL:, 0]
    return np.setdiff1d(numbers, numbers[scene.kind != BOX])


@pytest.mark.parametrize("seed", [3, 11])
def test_a_mesh_that_fills_a_box_is_seen_and_casts_shadows_as_the_box(cube, seed):
    room = Room.generate(seed, "validation")
    meshed = replace(room, scene=boxed(room.scene, cube))
    boxes = np.unique(room.scene.label[SHELL:][room.scene.kind == BOX, 0])
    compared = 0
    for camera in views_of(room, seed):
        true, ours = room.render(camera, 2.5, 1), meshed.render(camera, 2.5, 1)
        same = true.instance == ours.instance
        assert same.mean() > 0.995  # an edge through a pixel's centre may fall to either side
        assert np.allclose(ours.depth[same], true.depth[same], rtol=1e-5)
        assert np.array_equal(ours.mover[same], true.mover[same])
        floor = same & ~np.isin(true.instance, boxes) & ~true.sky
        differ = np.abs(ours.image[floor].astype(int) - true.image[floor]).max(axis=1, initial=0)
        assert np.mean(differ > 3) < 0.02  # shadows fall where they did
        compared += int(np.isin(true.instance[same], boxes).sum())
    assert compared > 500


def test_holes_of_an_image_are_seen_through_and_let_light_through(assets, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = write_catalogue(tmp_path / "Air.sh3f", mtl="newmtl look\nmap_Kd air.png\n")
    air = load_mesh(furniture(file.parent)[0])
    room = Room.generate(3, "validation")
    through = replace(room, scene=boxed(room.scene, air))
    kept = np.isin(room.scene.kind, (BOX,), invert=True)
    empty = replace(
        room.scene, geometry=np.where(kept[:, None], room.scene.geometry, [[-9, -9, -9, 0.1, 0.1, 0.1, 1, 0]])
    )
    camera = views_of(room, 3)[1]
    ours, true = through.render(camera), replace(room, scene=empty).render(camera)
    assert not np.isin(ours.instance, only_boxes(room.scene)).any()
    assert np.array_equal(ours.image, true.image)


def test_an_image_is_the_colour_of_what_it_is_on(assets, tmp_path, monkeypatch):
    """Many files give a surface with an image a black colour besides: it would be black."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = write_catalogue(tmp_path / "Red.sh3f", mtl="newmtl look\nKd 0 0 0\nmap_Kd square.png\n")
    red = load_mesh(furniture(file.parent)[0])
    room = Room.generate(3, "validation")
    scene = boxed(room.scene, red)
    scene.material[SHELL:][scene.kind == MESH, 1:4] = 1.0
    view = replace(room, scene=scene).render(views_of(room, 3)[1])
    on = np.isin(view.instance, np.unique(scene.label[SHELL:][scene.kind == MESH, 0]))
    r, g, b = view.image[on].astype(float).mean(0)
    assert r > 2 * g
    assert r > 2 * b


# Rooms


def test_rooms_are_procedural_and_the_same_as_before_unless_asked(assets):
    plain, named = Room.generate(4, "train"), Room.generate(4, "train", "procedural")
    assert plain.scene.meshes is None
    for one, other in zip(vars(plain.scene).values(), vars(named.scene).values(), strict=True):
        assert one is other is None or np.array_equal(one, other)


def test_a_seed_is_one_photographic_room(room):
    again = Room.generate(5, "train", "photographic")
    camera = room.start_camera(np.random.default_rng(0), 32, 32)
    assert np.array_equal(room.render(camera).image, again.render(camera).image)


@pytest.fixture(scope="module")
def rooms(assets, room) -> list[Room]:
    return [room, *(Room.generate(seed, "train", "photographic") for seed in range(6, 12))]


def corners(row: np.ndarray) -> np.ndarray:  # [4, 2]
    x, y = np.array([-1, -1, 1, 1]) * row[3], np.array([-1, 1, 1, -1]) * row[4]
    return np.stack([row[0] + row[6] * x - row[7] * y, row[1] + row[7] * x + row[6] * y], axis=1)


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Check that two boxes of a plan overlap by more than a centimetre (separating axes)."""
    p, q = corners(a), corners(b)
    for row in (a, b):
        for axis in (np.array([row[6], row[7]]), np.array([-row[7], row[6]])):
            u, v = p @ axis, q @ axis
            if u.max() < v.min() + 0.01 or v.max() < u.min() + 0.01:
                return False
    return True


def test_furniture_stands_on_the_floor_or_on_a_top_and_in_nothing(rooms):
    small = standing = 0
    for room in rooms:
        scene = room.scene
        solid = scene.geometry[(scene.kind == MESH) & (scene.mover_of < 0)]
        bottom, top = solid[:, 2] - solid[:, 5], solid[:, 2] + solid[:, 5]
        assert ((solid[:, :2] > 0.0) & (solid[:, :2] < scene.shell[:2])).all()
        for i, one in enumerate(solid):
            below = [j for j in range(len(solid)) if j != i and overlap(one, solid[j])]
            if abs(bottom[i]) < 1e-6:
                standing += 1
                assert not [j for j in below if abs(bottom[j]) < 1e-6]
            else:
                small += 1
                assert min(abs(top[j] - bottom[i]) for j in below) < 0.02
    assert standing > 20
    assert small > 5


def test_no_walk_goes_through_furniture(rooms):
    for room in rooms[:3]:
        scene = room.scene
        tall = scene.geometry[(scene.kind == MESH) & (scene.mover_of < 0)]
        tall = tall[tall[:, 2] + tall[:, 5] > 0.6]
        for camera in random_walk(room, np.random.default_rng(1), 40, 8, 8):
            x, y, _ = camera.position
            assert not any(overlap(np.array([x, y, 0, 0.2, 0.2, 0, 1, 0]), row) for row in tall)


def test_lenses_of_clips_vary_and_depth_is_that_of_the_room(assets):
    from mirage_env.rooms.clips import LENSES, rooms_clip

    focal = [rooms_clip(seed, "train", 1, 16, "photographic").intrinsics[0, 0] for seed in range(4)]
    fields = 2 * np.arctan(8.0 / np.array(focal))
    assert ((fields >= LENSES[0]) & (fields <= LENSES[1])).all()
    assert np.ptp(fields) > 0.05


def test_the_environment_shows_photographic_rooms(assets, room):
    env = RoomsEnv((16, 16), chunk_frames=2, split="train", style="photographic")
    env.reset(seed=0, options={"room": 5})
    assert env.get_state().room.scene.meshes is not None
    with pytest.raises(InvalidOptionError, match="photographic"):
        RoomsEnv((16, 16), style="photo")


# What is installed


def test_splits_share_neither_furniture_nor_paintings(assets, models):
    shown = [{m.name for role in inventory.inventory(split).models.values() for m in role} for split in SPLITS]
    shown = [
        names | {p.file.stem for p in paintings(assets / "photographs", s)}
        for names, s in zip(shown, SPLITS, strict=True)
    ]
    assert all(shown)
    assert sum(map(len, shown)) == len(set.union(*shown))
    assert {model.name for model in models} <= set.union(*shown)


def test_catalogues_of_other_licences_are_left_out(tmp_path):
    write_catalogue(tmp_path / "Mine.sh3f", licence="All rights reserved.")
    assert furniture(tmp_path) == ()
    write_catalogue(tmp_path / "Yours.sh3f")
    assert {model.licence for model in furniture(tmp_path)} in ({"CC BY 3.0"}, set())


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def test_no_catalogue_starts_a_program_by_a_picture(tmp_path, monkeypatch):
    """Pillow, which would read the picture for trimesh, starts Ghostscript for EPS."""
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: started.append(1))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = write_catalogue(tmp_path / "a.sh3f", mtl="newmtl look\nmap_Kd evil.png\n", furniture=FURNITURE[:1])
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("table0/evil.png", EPS)
    [model] = furniture(tmp_path)
    mesh = load_mesh(model)
    assert mesh is not None
    assert not mesh.images
    assert not started


def cut(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize("damage", [cut, lambda data: b"", lambda data: data.replace(b"v -1", b"v 1e")])
def test_damaged_catalogue_is_named(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = write_catalogue(tmp_path / "a.sh3f", furniture=FURNITURE[:1])
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InvalidOptionError, match=r"a\.sh3f is no furniture catalogue"):
        [load_mesh(model) for model in furniture(tmp_path)]


def test_furniture_of_impossible_sizes_is_left_out(tmp_path):
    sizes = [(120, 80, 75), ("nan", 80, 75), (120, "1e300", 75), (120, 80, "-75"), (0, 80, 75)]
    rows = [(f"table{n}", "Table", "Living room", *size) for n, size in enumerate(sizes)]
    write_catalogue(tmp_path / "a.sh3f", furniture=rows)
    assert [model.name for model in furniture(tmp_path)] == ["a/table0"]


def test_makers_are_named_by_licence(assets, models):
    text = attribution(assets / "furniture")
    assert "CC BY 3.0" in text
    assert all(model.maker in text for model in models)


def test_without_assets_photographic_rooms_say_what_to_install(monkeypatch):
    monkeypatch.delenv("MIRAGE_FURNITURE", raising=False)
    monkeypatch.delenv("MIRAGE_PHOTOGRAPHS", raising=False)
    monkeypatch.setattr(locations, "furniture_folder", lambda: None)
    monkeypatch.setattr(locations, "photograph_folder", lambda: None)
    assert not inventory.available()
    with pytest.raises(InvalidOptionError, match=r"sweethome3d-furniture.*miniworld"):
        Room.generate(0, "train", "photographic")


@pytest.mark.parametrize("variable", ["MIRAGE_FURNITURE", "MIRAGE_PHOTOGRAPHS"])
def test_a_folder_without_assets_is_refused_by_its_variable(variable, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, str(tmp_path))
    find = locations.furniture_folder if variable == "MIRAGE_FURNITURE" else locations.photograph_folder
    with pytest.raises(InvalidOptionError, match=variable):
        find()


def test_installed_furniture_is_simplified_and_has_colours(tmp_path, monkeypatch):
    folder = locations.FURNITURE
    if not any(folder.glob("*.sh3f")):
        pytest.skip("sweethome3d-furniture is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_mesh.cache_clear()
    found = [model for model in furniture(folder) if model.name.split("/")[1] in ("leather_sofa", "teapot")]
    for model in found:
        mesh = load_mesh(model)
        assert mesh is not None
        assert 100 < len(mesh.triangles) <= 2 * (FACES if max(model.size) > 0.6 else SMALL_FACES)
        assert np.abs(mesh.triangles[:, :9]).max() == pytest.approx(1.0, abs=0.05)
    assert len(found) == 2
    load_mesh.cache_clear()
