"""The preview network: what it begins as, its folder, which models it is for, and that training teaches it."""

import json
import shutil

import numpy as np
import pytest
import torch
from stand_ins import walled_world_model

from mirage_env.datasets.clips import Clips, write_clips
from mirage_env.errors import InvalidOptionError, ModelNotFoundError, WeightsError
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import MOVER, Readout
from mirage_env.models.io.fingerprint import fingerprint
from mirage_env.models.io.hub import find_model
from mirage_env.models.small import preview_decoder as previews
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.preview_decoder import (
    PreviewDecoder,
    find_preview,
    load_preview,
    preview_inputs,
    save_preview,
)
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.rooms import start_view
from mirage_env.rooms.clips import rooms_clip
from mirage_env.training.loop import LoopConfig
from mirage_env.training.preview import (
    VIEWS,
    PreviewConfig,
    Views,
    full_pictures,
    linear_decoder,
    look,
    pixels_of,
    run,
    train_preview,
    true_depth,
    walked,
    write_views,
)

IDENTITY = "tiny-0"
SMALL = {"latent_channels": 8, "width": 8, "blocks": 1, "fine_width": 8, "fine_blocks": 1}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_preview(PreviewDecoder(**SMALL), tmp_path / "preview", (IDENTITY, "other-1"))
    return tmp_path / "preview"


def readout(seed: int = 0, views: int = 3) -> Readout:
    """Random latents, half of them seen."""
    g = torch.Generator().manual_seed(seed)
    observed = (torch.rand(views, 4, 4, generator=g) < 0.5).float()
    return Readout(
        latent=torch.randn(views, 8, 4, 4, generator=g) * observed[:, None],
        observed=observed,
        depth=2.0 * observed,
        offset=0.3 * observed[:, None].expand(-1, 2, -1, -1),
        scale=0.1 * observed,
        age=observed,
    )


def test_it_begins_as_the_linear_path_of_the_codec():
    torch.manual_seed(1)
    codec = ConvCodec(latent_channels=8, width=8, deep_width=8, blocks=1)
    torch.nn.init.normal_(codec.latents_mean)
    codec.latents_std.uniform_(0.5, 2.0)
    preview = PreviewDecoder(**SMALL)
    preview.start_from(*linear_decoder(codec))
    seen = readout()
    with torch.no_grad():
        wanted = codec.decoder_linear(seen.latent * codec.latents_std + codec.latents_mean)
        assert torch.allclose(preview(preview_inputs(seen)), wanted, atol=1e-5)


def test_every_view_is_drawn_alone(folder):
    preview, seen = load_preview(folder, IDENTITY), readout()
    together = preview.show(seen)
    assert together.shape == (3, 32, 32, 3)
    assert together.dtype == np.uint8
    for i in range(3):
        assert np.abs(preview.show(seen[i])[0].astype(int) - together[i]).max() <= 1


def test_a_folder_gives_back_what_was_saved(folder):
    torch.manual_seed(0)
    saved, loaded = PreviewDecoder(**SMALL).state_dict(), load_preview(folder, "other-1").state_dict()
    assert all(torch.allclose(loaded[name].float(), value, atol=0.01) for name, value in saved.items())


def test_a_preview_for_another_model_is_refused(folder):
    with pytest.raises(InvalidOptionError, match="was made for tiny-0, other-1; the world model is rooms"):
        load_preview(folder, "rooms")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"models": []}', '{"models": [3]}', '{"models": "tiny-0"}'])
def test_damaged_settings_are_refused(folder, text):
    (folder / "preview.json").write_text(text)
    with pytest.raises(InvalidOptionError, match=r"preview\.json"):
        load_preview(folder, IDENTITY)


def test_a_folder_without_preview_is_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"holds no preview\.json"):
        load_preview(tmp_path, IDENTITY)


def test_weights_are_read_strictly(folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "width": 16}))
    with pytest.raises(WeightsError):
        load_preview(folder, IDENTITY)


def test_shipped_ones_are_found_by_the_model_they_are_for(folder, monkeypatch):
    monkeypatch.setattr(previews, "PREVIEWS", folder.parent)
    assert find_preview(IDENTITY) == folder
    assert find_preview("tiny-1") is None


def test_a_model_is_the_same_with_and_without_its_preview(folder, tmp_path):
    (tmp_path / "weights").mkdir()
    shutil.copytree(find_model("rooms"), tmp_path / "weights" / "rooms")
    before = fingerprint(tmp_path / "weights" / "rooms")
    shutil.copytree(folder, tmp_path / "weights" / "previews" / "rooms")
    assert fingerprint(tmp_path / "weights" / "rooms") == before


def test_the_shipped_model_has_one_that_is_small_and_near_what_refiner_and_codec_make():
    model = load_world_model("rooms")
    folder = find_preview(model.identity)
    assert folder is not None
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) < 2**20
    view = start_view(np.random.default_rng(3))
    _, state = model.start(view.image, view.camera, view.depth)
    side = view.camera.moved(pose_from_rotation_vector([0.4, 0.0, 0.2], [0.0, 0.3, 0.0]))
    seen = state.memory.read([side], 1)
    drawn, full = load_preview(folder, model.identity).show(seen), full_pictures(model, seen)
    with torch.inference_mode():
        bare = frames_to_uint8(model.codec.decode(seen.latent))
    cells = pixels_of(seen.observed)
    assert error(drawn, full, cells) < error(bare, full, cells)
    assert error(drawn, full, cells) < 12.0


def error(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Root mean square difference, grey levels."""
    return float(np.sqrt(((a.astype(float) - b)[where] ** 2).mean()))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Clips:
    return write_clips(tmp_path_factory.mktemp("clips"), (rooms_clip(s, "train", 10, 32) for s in (1, 2)), 2, {})


@pytest.fixture(scope="module")
def views(clips, tmp_path_factory) -> Views:
    return write_views(clips, walled_world_model(), tmp_path_factory.mktemp("views"), memories=6, seed=5)


def test_pairs_are_the_truth_where_the_memory_shows_something_and_the_full_path_elsewhere(clips, views):
    model = walled_world_model()
    assert views.inputs.shape == (6 * VIEWS, 8 + 6, 4, 4)
    frames, labels = clips.images.reshape(-1, 32, 32, 3), clips.labels.reshape(-1, 32, 32)
    seen = pixels_of(torch.from_numpy(views.inputs[:, 8].astype(np.float32)))
    assert 0.1 < seen.mean() < 1.0
    for i, (picture, shown) in enumerate(zip(views.pictures, seen, strict=True)):
        full = full_pictures(model, look(clips, model, np.random.default_rng([5, i // VIEWS]))[0])[i % VIEWS]
        # Some frame of the clips is shown wherever the memory shows something, but for movers.
        wanted = np.where((shown & (labels != MOVER))[..., None], frames, full)
        assert (wanted == picture).all((1, 2, 3)).any()


def test_memories_are_observed_or_imagined_and_depend_on_the_seed_alone(clips):
    model = walled_world_model()
    states = [walked(clips, 0, model, np.random.default_rng(seed)) for seed in range(12)]
    again = [walked(clips, 0, model, np.random.default_rng(seed)) for seed in range(12)]
    assert {state.chunk for state in states} == {0, 1, 2}
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(states, again, strict=True))
    assert len({bytes(state.noise.numpy()) for state in states}) == len(states)


def test_depth_is_infinite_where_a_clip_has_none(clips):
    depth = true_depth(clips, 0)
    assert np.array_equal(np.isinf(depth), clips.depth[0] == 0)


def test_training_teaches_the_pictures(views, tmp_path):
    torch.manual_seed(0)
    config = LoopConfig(steps=60, lr=5e-3, warmup=3, ema=0.8, log_every=10, bf16=False)
    train_preview(PreviewDecoder(**SMALL), views, tmp_path / "run", config, batch=8)
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    column = rows[0].split(",").index("psnr")
    first, last = (float(rows[i].split(",")[column]) for i in (1, -1))
    assert last > first + 1.0


def test_numbers_out_of_range_are_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match="--steps"):
        PreviewConfig(tmp_path, steps=0)


def test_training_needs_the_stages_before_it(tmp_path):
    with pytest.raises(InvalidOptionError, match="mirage train record"):
        run(PreviewConfig(tmp_path, memories=1, steps=1))
