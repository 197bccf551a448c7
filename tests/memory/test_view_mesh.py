"""Views as meshes: drawn where they were seen from they are themselves, moved they are what a camera would see."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_env.camera import Camera
from mirage_env.memory import view_mesh
from mirage_env.memory.view_mesh import ViewMesh, sharp_edges
from mirage_env.poses import pose_from_rotation_vector

SIDE = 32
CAMERA = Camera.from_fov(1.1, SIDE, SIDE)
FOCAL = float(CAMERA.K_image[0, 0])
ANYWHERE = pose_from_rotation_vector([3.0, -7.0, 2.0], [0.4, -0.9, 0.2])
every = pytest.mark.parametrize("every", [1, 2, 4])  # pixels on a side for each depth


def noise(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


def waves() -> torch.Tensor:
    """A picture that changes little from pixel to pixel."""
    rows, columns = torch.meshgrid(torch.arange(SIDE) / 8.0, torch.arange(SIDE) / 8.0, indexing="ij")
    return torch.stack([rows.sin(), columns.cos(), (rows + columns).sin()])


def wall(metres: float = 2.0) -> torch.Tensor:
    return torch.full((SIDE, SIDE), metres)


def plane(across: float, down: float) -> torch.Tensor:  # shares of the nearest inverse depth, over the picture
    rows, columns = torch.meshgrid(torch.linspace(0.0, 1.0, SIDE), torch.linspace(0.0, 1.0, SIDE), indexing="ij")
    inverse = 1.0 + across * columns + down * rows
    return 1.0 / (inverse - inverse.min() + 0.02 * inverse.max().clamp_min(0.5))


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0, of: Camera = CAMERA) -> Camera:
    return of.moved(pose_from_rotation_vector([x, y, z], [0.0, 0.0, 0.0]))


def drawn(layers, cameras) -> tuple[torch.Tensor, torch.Tensor]:
    """The images, and where something is seen."""
    images, layer, metres = view_mesh.drawn(layers, cameras)
    assert torch.equal(layer < 0, metres.isinf())
    return images, layer >= 0


def same(a, b) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@every
@pytest.mark.parametrize("pose", [np.eye(4), ANYWHERE])
def test_a_view_drawn_where_it_was_seen_from_is_itself_up_to_its_borders(every, pose):
    camera, image = CAMERA.at(pose), noise()
    images, shown = drawn([[ViewMesh.of(image, wall(3.0)[::every, ::every], camera)]], [camera])
    assert shown.all()
    assert (images[0] - image).abs().max() < 1e-3


@every
def test_a_slope_drawn_where_it_was_seen_from_is_itself(every):
    depth = 1.0 / torch.linspace(0.3, 0.5, SIDE // every)[:, None].expand(-1, SIDE // every).contiguous()
    images, shown = drawn([[ViewMesh.of(waves(), depth, CAMERA)]], [CAMERA])
    assert shown.all()
    assert (images[0] - waves()).abs().max() < 0.03


@every
@given(pixels=st.integers(-12, 12), metres=st.floats(0.5, 20.0), down=st.booleans())
def test_a_wall_seen_from_aside_is_shifted_by_focal_length_times_step_over_depth(every, pixels, metres, down):
    image, step = noise(), pixels * metres / FOCAL
    camera = moved(y=step) if down else moved(x=step)
    images, shown = drawn([[ViewMesh.of(image, wall(metres)[::every, ::every], CAMERA)]], [camera])
    axis = -2 if down else -1
    there = torch.arange(SIDE) + pixels
    inside = (there >= 0) & (there < SIDE)
    seen = images[0].movedim(axis, 0)[inside]
    assert (seen - image.movedim(axis, 0)[there[inside]]).abs().max() < 5e-3
    assert shown[0].movedim(axis, 0)[inside].all()
    assert not shown[0].movedim(axis, 0)[~inside].any()
    assert not images.movedim(1, -1)[~shown].any()


def test_half_a_pixel_aside_shows_what_lies_between_pixels():
    ramp = torch.linspace(-0.8, 0.8, SIDE).expand(3, SIDE, SIDE).contiguous()
    images, _ = drawn([[ViewMesh.of(ramp, wall(), CAMERA)]], [moved(x=0.5 * 2.0 / FOCAL)])
    between = 0.5 * (ramp[..., 1:] + ramp[..., :-1])
    assert torch.allclose(images[0, ..., 1:-2], between[..., 1:-1], atol=1e-4)


@given(
    across=st.floats(-50.0, 50.0),
    down=st.floats(-50.0, 50.0),
    step=st.integers(1, 3),
)
def test_a_plane_is_never_cut_however_grazing_the_angle(across, down, step):
    mesh = ViewMesh.of(noise(), plane(across, down)[::step, ::step], CAMERA)
    assert mesh.whole.all()


@given(
    at=st.integers(0, SIDE - 2),
    ratio=st.floats(1.1, 30.0),
    turn=st.booleans(),
    nearer=st.booleans(),
    slope=st.floats(-0.5, 0.5),
)
def test_a_step_in_depth_is_always_cut_and_nothing_else(at, ratio, turn, nearer, slope):
    inverse = (1.0 + slope * torch.arange(SIDE) / SIDE).expand(SIDE, SIDE).clone()
    inverse[at + 1 :] *= ratio if nearer else 1.0 / ratio
    depth = 1.0 / inverse
    cut = ~ViewMesh.of(noise(), depth.T.contiguous() if turn else depth, CAMERA).whole
    cut = cut.swapaxes(0, 1) if turn else cut
    assert cut[at].all()
    assert cut.sum() == cut[at].size


@given(seed=st.integers(0, 1000), step=st.sampled_from([1, 2]))
def test_pixels_without_depth_make_no_triangle_and_all_others_do(seed, step):
    there = np.random.default_rng(seed).random((SIDE // step, SIDE // step)) < 0.8
    whole = ViewMesh.of(noise(), torch.where(torch.from_numpy(there), 2.0, 0.0), CAMERA).whole
    aside = there[:-1, 1:] & there[1:, :-1]
    assert np.array_equal(whole, np.stack([aside & there[:-1, :-1], aside & there[1:, 1:]], -1))


def test_a_thing_before_a_wall_leaves_a_gap_where_the_wall_was_hidden():
    depth = wall(4.0)
    depth[:, 12:20] = 2.0
    image = torch.where(depth == 2.0, 1.0, -1.0).expand(3, SIDE, SIDE).contiguous()
    step = 4.0 * 2.0 / FOCAL  # four pixels of the thing, two of the wall
    images, shown = drawn([[ViewMesh.of(image, depth, CAMERA)]], [moved(x=-step)])
    near = images[0, 0, 16] > 0.0
    assert near.nonzero()[:, 0].tolist() == list(range(16, 24))
    assert [i for i in range(2, SIDE) if not shown[0, 16, i]] == [14, 15]


def test_of_one_layer_the_nearest_is_seen_and_of_a_later_one_only_what_the_earlier_leaves():
    far, near, part = wall(4.0), wall(1.0), wall(6.0)
    part[:, 16:] = 0.0
    colours = [torch.full((3, SIDE, SIDE), value) for value in (-0.5, 0.25, 0.5)]
    a, b, c = (ViewMesh.of(i, d, CAMERA) for i, d in zip(colours, (far, near, part), strict=True))
    images, shown = drawn([[a, b, c]], [CAMERA])
    assert shown.all()
    assert torch.allclose(images, torch.tensor(0.25))
    images, shown = layered = drawn([[c], [a, b]], [CAMERA])
    assert shown.all()
    earlier = torch.isclose(images, torch.tensor(0.5))
    assert (earlier | torch.isclose(images, torch.tensor(0.25))).all()
    assert earlier[..., :15].all()
    assert not earlier[..., 17:].any()
    same(drawn([[c], [b, a]], [CAMERA]), layered)
    same(drawn([[c], [], [b]], [CAMERA]), layered)
    assert not drawn([], [CAMERA])[1].any()
    _, layer, metres = view_mesh.drawn([[c], [], [a, b]], [CAMERA])
    assert torch.equal(layer == 0, earlier[:, 0])
    assert torch.equal(layer == 2, ~earlier[:, 0])
    assert torch.allclose(metres, torch.where(layer == 0, 6.0, 1.0))


@given(share=st.floats(0.3, 0.7), metres=st.floats(1.0, 3.0))
def test_a_pixel_that_is_covered_in_part_shows_as_much_of_what_lies_behind(share, metres):
    colours = [torch.full((3, SIDE, SIDE), value) for value in (0.5, -0.5)]
    near = ViewMesh.of(colours[0], wall(metres), CAMERA, torch.full((SIDE, SIDE), share))
    whole = ViewMesh.of(colours[0], wall(metres), CAMERA)
    behind, before = ViewMesh.of(colours[1], wall(4.0), CAMERA), ViewMesh.of(colours[1], wall(0.5), CAMERA)
    part = min(max(0.5 + 2.0 * (share - 0.5), 0.0), 1.0)
    for layers in ([[near, behind]], [[behind, near]], [[near], [behind]]):
        images, shown = drawn(layers, [CAMERA])
        assert shown.all()
        inside = images[..., 2:-2, 2:-2]  # the outermost squares are larger
        assert torch.allclose(inside, torch.tensor(part - 0.5), atol=1e-3)
    same(drawn([[near, before]], [CAMERA]), drawn([[whole, before]], [CAMERA]))
    images, shown = drawn([[near]], [CAMERA])  # nothing behind: all or nothing
    assert shown.all() if share > 0.5 else not shown.any()
    assert torch.allclose(images, torch.where(shown, 0.5, 0.0)[:, None], atol=1e-3)


def some_meshes() -> list[ViewMesh]:
    """Views of walls all around, and one of which nothing is there."""
    views = [CAMERA.at(pose_from_rotation_vector([0.5 * i, 0.0, 0.0], [0.0, 1.3 * i, 0.0])) for i in range(4)]
    meshes = [ViewMesh.of(noise(i), plane(0.4 * i, -0.2)[::4, ::4] + 1.0, camera) for i, camera in enumerate(views)]
    return [*meshes, ViewMesh.of(noise(9), wall(0.0)[::4, ::4], CAMERA)]


MESHES = some_meshes()
numbers = st.floats(-3.0, 3.0)


@given(place=st.tuples(numbers, numbers, numbers), turn=st.tuples(numbers, numbers, numbers), fov=st.floats(0.1, 2.5))
def test_what_is_out_of_view_is_left_out_and_nothing_else(place, turn, fov):
    camera = Camera.from_fov(fov, 24, SIDE, pose_from_rotation_vector(place, turn))
    seen = drawn([MESHES[:2], MESHES[2:]], [camera])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view_mesh, "_in_view", lambda *_: True)
        same(drawn([MESHES[:2], MESHES[2:]], [camera]), seen)


@given(row=st.integers(0, SIDE - 4), column=st.integers(0, SIDE - 4))
def test_a_small_mesh_is_seen_wherever_it_is_in_the_picture(row, column):
    depth, camera = wall(0.0), CAMERA.at(ANYWHERE)
    depth[row : row + 4, column : column + 4] = 2.0
    shown = drawn([[ViewMesh.of(noise(), depth, camera)]], [camera])[1][0]
    assert shown[row + 1 : row + 3, column + 1 : column + 3].all()
    assert not shown[depth == 0.0].any()


def test_a_mesh_behind_the_camera_or_beside_the_picture_is_not_drawn(monkeypatch):
    mesh = ViewMesh.of(noise(), wall(), CAMERA)
    turns = [(1.3, 0.0, 0.0), (-1.3, 0.0, 0.0), (0.0, 1.3, 0.0), (0.0, -1.3, 0.0)]
    views = [moved(z=3.0), *(CAMERA.moved(pose_from_rotation_vector([0.0, 0.0, 0.0], turn)) for turn in turns)]
    monkeypatch.setattr(view_mesh, "draw_triangles", lambda *_: pytest.fail("drawn"))
    assert not drawn([[mesh, ViewMesh.of(noise(), wall(0.0), CAMERA)]], views)[1].any()
    with pytest.raises(pytest.fail.Exception):
        drawn([[mesh]], [CAMERA])


def test_views_are_the_same_on_any_number_of_threads():
    views = [CAMERA.at(pose_from_rotation_vector([0.1 * i, 0.0, 0.0], [0.0, 0.4 * i, 0.0])) for i in range(9)]
    before, shown = torch.get_num_threads(), []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            shown.append(drawn([MESHES[:3], MESHES[3:]], views))
    finally:
        torch.set_num_threads(before)
    same(*shown)
    one_by_one = [drawn([MESHES[:3], MESHES[3:]], [camera]) for camera in views]
    same(shown[0], [torch.cat(parts) for parts in zip(*one_by_one, strict=True)])


# Sharp edges


def blurred(ratio: float, *shares: float) -> torch.Tensor:  # [H, W] metres
    """A wall at 2 m and one so many times as far, with such shares of the nearer one in the pixels before column 16."""
    inverse = torch.full((SIDE, SIDE), 0.5 / ratio)
    inverse[:, 16:] = 0.5
    for column, share in zip(range(16 - len(shares), 16), shares, strict=True):
        inverse[:, column] = 0.5 / ratio + share * (0.5 - 0.5 / ratio)
    return 1.0 / inverse


def turned(x: torch.Tensor, quarter_turns: int) -> torch.Tensor:
    return torch.rot90(x, quarter_turns, (-2, -1)).contiguous()


turns = st.integers(0, 3)


@given(seed=st.integers(0, 1000), ratio=st.floats(1.2, 10.0), share=st.floats(0.4, 0.6), turn=turns)
def test_a_pixel_of_a_blurred_edge_gets_the_depth_of_one_of_its_sides_whatever_its_colour(seed, ratio, share, turn):
    sharp = turned(sharp_edges(turned(blurred(ratio, share), turn), noise(seed)), -turn) / 2.0
    near, far = (sharp - 1.0).abs() < 1e-4, (sharp / ratio - 1.0).abs() < 1e-4
    assert (near | far).all()
    assert far[:, :12].all()
    assert near[:, 19:].all()


@given(
    aside=st.integers(-1, 1),
    ratio=st.floats(1.5, 10.0),
    share=st.floats(0.1, 0.3),
    turn=turns,
    swap=st.sampled_from([-1.0, 1.0]),
)
def test_an_edge_follows_the_colours_and_the_nearer_side_is_a_pixel_wider(aside, ratio, share, turn, swap):
    image, expected = torch.full((3, SIDE, SIDE), -0.6), wall(2.0 * ratio)
    image[0, :, 15 + aside :] = 0.7
    expected[:, 15 + aside - 1 :] = 2.0
    depth = turned(blurred(ratio, share, 1.0 - share), turn)
    assert torch.allclose(turned(sharp_edges(depth, turned(swap * image, turn)), -turn), expected, rtol=1e-4)


@given(across=st.floats(-50.0, 50.0), down=st.floats(-50.0, 50.0), seed=st.integers(0, 1000))
def test_slopes_stay_as_they_are(across, down, seed):
    steep, inner = plane(across, down), np.s_[4:-4, 4:-4]
    assert torch.allclose(sharp_edges(steep, noise(seed))[inner], steep[inner], rtol=1e-5)
    gentle = 1.0 / (1.0 + 0.01 * (1.0 / steep) / (1.0 / steep).max() * SIDE)
    assert torch.allclose(sharp_edges(gentle, noise(seed)), gentle, rtol=1e-5)


@pytest.mark.parametrize("pose", [np.eye(4), ANYWHERE])
def test_what_lies_beside_a_picture_is_not_seen_in_it_and_ends_at_its_border(pose):
    camera, wide = CAMERA.at(pose), Camera.from_fov(2.0, 3 * SIDE, 3 * SIDE, pose)
    mesh = ViewMesh.of(torch.rand(3, 3 * SIDE, 3 * SIDE), torch.full((24, 24), 2.0), wide)
    beside = mesh.beside(camera)
    within = drawn([[beside]], [camera])[1][0]
    inner = int(view_mesh.OVERLAP) + 1
    assert not within[inner:-inner, inner:-inner].any()
    assert within[8:-8, [0, -1]].all()  # no gap is left
    assert within[[0, -1], 8:-8].all()
    _, all_shown = drawn([[mesh]], [wide])
    _, shown = drawn([[beside]], [wide])
    half = math.tan(1.1 / 2.0) / math.tan(1.0) * 1.5 * SIDE  # of the picture of `camera` in the other one
    at = (torch.arange(3 * SIDE) + 0.5 - 1.5 * SIDE).abs()
    outside = (at[:, None] > half + 1.0) | (at > half + 1.0)
    assert (shown | ~all_shown | ~outside)[0].all()


def test_the_part_of_a_mesh_ends_between_its_vertices():
    mesh = ViewMesh.of(torch.rand(3, SIDE, SIDE), wall()[::4, ::4], CAMERA)
    to_the_right = mesh.points[..., 0] - 0.1
    _, shown = drawn([[mesh.part(to_the_right)]], [CAMERA])
    columns = (torch.arange(SIDE) + 0.5 - SIDE / 2) / FOCAL * 2.0
    assert shown[0, :, columns > 0.1].all()
    assert not shown[0, :, columns < 0.1 - 2.0 / FOCAL].any()
    _, both = drawn([[mesh.part(to_the_right).part(0.5 - mesh.points[..., 0])]], [CAMERA])
    assert torch.equal(both[0, :, columns < 0.4], shown[0, :, columns < 0.4])
    assert not both[0, :, columns > 0.5 + 2.0 / FOCAL].any()
    nothing = ViewMesh.of(torch.rand(3, SIDE, SIDE), torch.zeros(8, 8), CAMERA)
    assert nothing.part(np.ones((8, 8))) is nothing
