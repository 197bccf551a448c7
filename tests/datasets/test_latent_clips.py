"""The data set format: what is written comes back, what is damaged is refused, windows are what a world encodes."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from clean_processes import clean_processes
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import path as walk
from stand_ins import picture
from tiny_wan import tiny_vae, tiny_wan_world_model
from training_runs import read_clips

from mirage_env.camera import Camera
from mirage_env.datasets.clip_store import (
    DatasetInfo,
    LatentClip,
    clip_names,
    create_dataset,
    read_clip,
    write_clip,
    write_imagined,
    write_text,
)
from mirage_env.datasets.latent_clips import LatentClips
from mirage_env.errors import ClipError, DatasetError, InvalidOptionError
from mirage_env.images import frames_from_uint8
from mirage_env.models.wan.video_codec import WanCodec
from mirage_env.training.checking import Check, check
from mirage_env.training.conditioning import preceding, write_of
from mirage_env.training.encoding import encode_clip, encode_video, fingerprint, key_frames
from mirage_env.world_state import Chunk

INFO = DatasetInfo((32, 32), (4, 4), 8, temporal_stride=4, window=2, codec="test", text_length=5, text_channels=3)
NAMES = ("anchors", "latents", "depth", "keep", "poses", "intrinsics")


def a_clip(seed: int = 0, windows: int = 3, info: DatasetInfo = INFO, text: str = "") -> LatentClip:
    rng = np.random.default_rng(seed)
    frames = 1 + windows * info.window
    shape = (info.latent_channels, *info.latent_size)
    anchors = 1 if info.window == 1 else 1 + windows
    camera = Camera.from_fov(1.0, *info.image_size)
    return LatentClip(
        anchors=rng.standard_normal((anchors, *shape)).astype(np.float16),
        latents=rng.standard_normal((frames - 1, *shape)).astype(np.float16),
        depth=rng.uniform(1, 5, (frames, 2, *info.latent_size)).astype(np.float16),
        keep=rng.random((frames, 2, *info.latent_size)) < 0.5,
        poses=np.stack([camera.T_world_cam] * frames),
        intrinsics=np.stack([camera.K_image] * frames),
        image_size=info.image_size,
        window=info.window,
        text=text,
        provenance={"source": "test", "seed": seed},
    )


@pytest.fixture
def place(tmp_path) -> Path:
    """A data set of two clips."""
    create_dataset(tmp_path / "set.zarr", INFO)
    for seed, name in enumerate(("b", "a")):
        write_clip(tmp_path / "set.zarr", name, a_clip(seed))
    return tmp_path / "set.zarr"


def same(a: LatentClip, b: LatentClip) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in NAMES)


@settings(max_examples=8)
@given(
    st.integers(0, 2**20),
    st.integers(1, 4),
    st.sampled_from([1, 2, 8]),
    st.text(max_size=20),
)
def test_clips_come_back_as_they_were_written(tmp_path_factory, seed, windows, window, text):
    info = dataclasses.replace(INFO, window=window)
    clip, folder = a_clip(seed, windows, info, text), tmp_path_factory.mktemp("set")
    create_dataset(folder, info)
    write_clip(folder, "one", clip)
    back = read_clip(folder, "one", info)
    assert same(back, clip)
    assert (back.text, back.provenance, back.window) == (text, clip.provenance, window)


def test_clips_are_in_the_order_of_their_names(place):
    data = LatentClips(place)
    assert data.names == ["a", "b"]
    assert len(data) == 2
    assert same(data[0], a_clip(1))
    assert same(data[1], a_clip(0))
    assert data.info == INFO


def test_any_zarr_library_reads_it(place):
    assert zarr.open_group(place, mode="r").attrs["format"] == "mirage_clips"
    with zarr.storage.ZipStore(place / "clips" / "a.zarr.zip", mode="r") as store:
        assert np.array_equal(zarr.open_group(store, mode="r")["latents"][...], a_clip(1).latents)


def test_latents_of_key_frames_are_the_start_as_a_still_and_the_rest_of_windows(place):
    clip = LatentClips(place)[0]
    clean = clip.clean(range(7))
    assert np.array_equal(clean[0].numpy(), clip.anchors[0])
    assert np.array_equal(clean[1:].numpy(), clip.latents)
    assert np.array_equal(clip.still(4).numpy(), clip.anchors[2])
    assert list(clip.starts(3)) == [0, 2, 4]
    plain = a_clip(0, windows=6, info=dataclasses.replace(INFO, temporal_stride=1, window=1))
    assert torch.equal(plain.still(4), plain.clean([4])[0])
    assert list(plain.starts(3)) == [0, 1, 2, 3, 4]
    assert [list(write_of(clip, n)) for n in range(3)] == [[0], [1, 2], [3, 4]]


def test_clips_that_were_read_stay_in_memory_up_to_a_size(place):
    size = a_clip().nbytes
    data = LatentClips(place, cache_bytes=2 * size)
    assert data[0] is data[0]
    small = LatentClips(place, cache_bytes=size)
    first = small[0]
    assert small[1] is small[1]
    assert small[0] is not first


def test_other_processes_read_the_same_clips(place):
    data = LatentClips(place)
    context = clean_processes()
    ours, theirs = context.Pipe(duplex=False)
    with ours, theirs:
        process = context.Process(target=read_clips, args=(data, theirs))
        process.start()
        try:
            assert ours.poll(300), "nothing was read"
            found = ours.recv()
        finally:
            process.kill()
            process.join()
            process.close()
    assert found == [float(data[i].latents.astype(np.float64).sum()) for i in range(2)]


def test_prompts_are_padded_as_the_transformer_gets_them(place):
    embedding = torch.randn(3, 3)
    write_text(place, "a red chair", embedding)
    write_text(place, "", torch.zeros(5, 3))
    data = LatentClips(place)
    padded = data.embedded("a red chair")
    assert padded.shape == (5, 3)
    torch.testing.assert_close(padded[:3], embedding, rtol=1e-3, atol=1e-3)
    assert not padded[3:].any()
    assert not data.embedded("").any()
    with pytest.raises(ClipError, match="there is no file"):
        data.embedded("never written")


def test_imagined_latents_take_the_place_of_the_true_ones(place):
    data, dream = LatentClips(place), a_clip(9)
    assert data.imagined(0) is None
    write_imagined(place, "a", dream.anchors, dream.latents)
    data = LatentClips(place)
    imagined = data.imagined(0)
    assert np.array_equal(imagined.latents, dream.latents)
    assert np.array_equal(imagined.anchors, dream.anchors)
    assert np.array_equal(imagined.depth, data[0].depth)
    assert data.imagined(1) is None
    write_imagined(place, "b", dream.anchors, dream.latents[:-1])
    with pytest.raises(ClipError, match="latents like those of its clip"):
        LatentClips(place).imagined(1)


def test_held_out_clips_are_not_among_the_others(tmp_path):
    create_dataset(tmp_path, INFO)
    for i in range(7):
        write_clip(tmp_path, f"{i}", a_clip(i))
    data = LatentClips(tmp_path)
    train, rest = data.split(3)
    assert rest is not None
    assert len(rest) == 3
    assert sorted([*train.names, *rest.names]) == data.names
    assert data.split(0)[1] is None
    with pytest.raises(DatasetError, match="leave some"):
        data.split(7)


# Refused


def test_nothing_there_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match="import one"):
        LatentClips(tmp_path / "nowhere")
    create_dataset(tmp_path, INFO)
    with pytest.raises(DatasetError, match="holds no clips"):
        LatentClips(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version 2; this release reads"),
        ({"format": "other"}, "format 'other'"),
        ({"info": {"codec": "x"}}, "lacks the keys"),
        ({"info": None}, "info"),
    ],
)
def test_other_formats_are_refused_by_name(place, change, says):
    about = json.loads((place / "zarr.json").read_text())
    about["attributes"].update(change)
    (place / "zarr.json").write_text(json.dumps(about))
    with pytest.raises((DatasetError, InvalidOptionError), match=says):
        LatentClips(place)


def test_root_that_is_no_json_is_refused(place):
    (place / "zarr.json").write_text("half")
    with pytest.raises(DatasetError, match="no JSON"):
        LatentClips(place)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damaged_clips_are_refused_by_file(place, damage):
    file = place / "clips" / "a.zarr.zip"
    data = file.read_bytes()
    with zipfile.ZipFile(file) as whole:
        inside = next(i for i in whole.infolist() if "latents/c" in i.filename)
    flipped = bytearray(data)
    flipped[inside.header_offset + len(inside.filename) + 60] ^= 0xFF
    file.write_bytes({"truncated": data[: len(data) // 2], "flipped": bytes(flipped), "empty": b""}[damage])
    with pytest.raises(ClipError, match=r"a\.zarr\.zip is damaged"):
        LatentClips(place)[0]


def _without(clip: LatentClip, name: str, value) -> LatentClip:
    return dataclasses.replace(clip, **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("latents", np.zeros((5, 8, 4, 4), np.float16), r"latents float16\[5, 8, 4, 4\] instead of float16\[6"),
        ("depth", np.zeros((7, 2, 4, 4), np.float32), "depth float32"),
        ("poses", np.zeros((6, 4, 4)), "6 key frames, where it needs 1 . n . 2"),
        ("anchors", np.full((4, 8, 4, 4), np.nan, np.float16), "NaN or inf in anchors"),
    ],
)
def test_clips_that_do_not_fit_are_not_written(place, name, value, says):
    with pytest.raises(ClipError, match=says):
        write_clip(place, "c", _without(a_clip(), name, value))
    assert clip_names(place) == ["a", "b"]


def test_clip_of_another_data_set_is_refused_when_it_is_read(place, tmp_path):
    other = dataclasses.replace(INFO, latent_channels=4)
    create_dataset(tmp_path / "other.zarr", other)
    write_clip(tmp_path / "other.zarr", "a", a_clip(0, info=other))
    shutil.copy(tmp_path / "other.zarr" / "clips" / "a.zarr.zip", place / "clips" / "a.zarr.zip")
    with pytest.raises(ClipError, match=r"instead of float16\[4, 8, 4, 4\]"):
        LatentClips(place)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b"])
def test_names_that_no_file_should_have_are_refused(place, name):
    with pytest.raises(InvalidOptionError, match="a clip is called"):
        write_clip(place, name, a_clip())


def test_a_data_set_goes_on_only_with_its_own_sizes_and_codec(place):
    create_dataset(place, dataclasses.replace(INFO, importance=(1.0,) * 8))
    assert len(LatentClips(place)) == 2
    with pytest.raises(DatasetError, match="codec test instead of other"):
        create_dataset(place, dataclasses.replace(INFO, codec="other"))


def test_what_a_killed_writer_leaves_is_no_clip(place):
    (place / "clips" / ".c.zarr.zip.x1.partial").write_bytes(b"half")
    assert clip_names(place) == ["a", "b"]


def test_model_of_other_sizes_is_refused_with_both(place):
    config = tiny_wan_world_model().config
    with pytest.raises(DatasetError, match=r"image_size \(32, 32\) \(the model: \(64, 64\)\)"):
        INFO.check_model(config)
    INFO.check_model(dataclasses.replace(config, image_size=(32, 32), latent_size=(4, 4)))


def test_check_tells_what_is_there_and_names_every_damaged_clip(place):
    write_imagined(place, "a", a_clip(9).anchors, a_clip(9).latents)
    told = check(Check(place))
    assert "2 clips, 14 key frames" in told
    assert "1 clips imagined" in told
    for name in ("a", "b"):
        (place / "clips" / f"{name}.zarr.zip").write_bytes(b"half")
    with pytest.raises(ClipError, match="2 of 2 clips are damaged") as caught:
        check(Check(place))
    assert all(f"{name}.zarr.zip" in str(caught.value) for name in ("a", "b"))


# Windows


@pytest.fixture(scope="module")
def model():
    return tiny_wan_world_model()


def video(frames: int) -> np.ndarray:  # [frames, 64, 64, 3]
    return np.stack([np.kron(picture(i), np.ones((2, 2, 1), np.uint8)) for i in range(frames)])


def test_windows_are_encoded_from_their_anchors(model):
    images, codec = video(19), model.codec
    anchors, latents = encode_video(codec, images, model.config)
    assert (len(anchors), len(latents)) == (3, 4)
    frames = frames_from_uint8(images)
    for k in range(2):
        torch.testing.assert_close(anchors[k], codec.encode(frames[8 * k : 8 * k + 1])[0])
        window = codec.encode_chunk(frames[8 * k + 1 : 8 * k + 9], first=anchors[k])
        torch.testing.assert_close(latents[2 * k : 2 * k + 2], window)
    assert list(key_frames(19, model.config)) == [0, 4, 8, 12, 16]


def test_clip_too_short_for_a_chunk_is_refused(model):
    with pytest.raises(ClipError, match="8 frames; a chunk needs 9"):
        key_frames(8, model.config)


def test_past_of_a_chunk_is_what_a_world_that_saw_the_clip_keeps(model):
    """A world that is shown the clip chunk by chunk has, before each chunk, the latents that a sample is given."""
    images = video(25)
    start = Camera.from_fov(1.3, 64, 64)
    cameras = [start, *walk(start, count=24)]
    picked = [cameras[f] for f in key_frames(25, model.config)]
    clip = encode_clip(images, picked, model.config, model.codec, model.depth, model.segmenter)
    _, state = model.start(images[0], start)
    for k in range(3):
        assert torch.allclose(preceding(clip, 2 * k, 2), state.latents[:-1], atol=5e-3)
        assert torch.allclose(clip.still(2 * k), state.latents[-1], atol=5e-3)
        frames = frames_from_uint8(images[8 * k + 1 : 8 * k + 9])
        with torch.inference_mode():
            readout = state.memory.read(cameras[8 * k + 4 : 8 * k + 9 : 4], now=k + 1)
            nothing = torch.zeros(2, 8, 4, 4)
            seen: Chunk = model._look(frames, cameras[8 * k + 1 : 8 * k + 9], readout, nothing, nothing, None)
            state = model._remember(state, seen, None)
        assert np.array_equal(clip.keep[2 * k + 1 : 2 * k + 3, 1], seen.keep.numpy())


def test_fingerprint_tells_codecs_apart_and_not_their_types():
    one, other = WanCodec(tiny_vae(0)), WanCodec(tiny_vae(1))
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(WanCodec(tiny_vae(0).to(torch.bfloat16)))
