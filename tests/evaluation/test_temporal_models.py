"""The evaluation of models whose codec has one latent for several frames."""

import math

import numpy as np
import pytest
import torch
from temporal import temporal_world_model

from mirage_env.evaluation import export_rooms, loop, network_parts, re10k, speed
from mirage_env.evaluation.loop_walks import ALL, loop_walk
from mirage_env.evaluation.oracle import ROWS
from mirage_env.evaluation.variant_rollout import pixels_known, roll_out, true_views
from mirage_env.rooms import Room

MODEL = temporal_world_model()
FRAMES, LATENTS = 8, 2


def load(name):
    return MODEL


def truth(seed=0, chunks=2):
    room, rng = Room.generate(seed, "test"), np.random.default_rng(seed)
    walk = loop_walk("out_and_back", room, rng, chunks, FRAMES, chunks * FRAMES, 32, 32)
    return true_views(seed, room, walk, 0.0, 0.125)


def test_model_has_more_frames_than_latents():
    assert MODEL.config.frames_per_chunk == FRAMES
    t = truth(chunks=1)
    chunk, _ = MODEL.step(MODEL.start(t.images[0], t.walk.cameras[0])[1], t.walk.cameras[1 : 1 + FRAMES])
    assert (len(chunk.frames), len(chunk.depth), len(chunk.latents)) == (FRAMES, LATENTS, LATENTS)


def test_every_frame_of_a_walk_is_shown_and_has_its_mask():
    t = truth()
    (rollout,) = roll_out(MODEL, [t], readouts=True)
    shapes = {len(x) for x in (t.frames, rollout.frames, rollout.seen, *rollout.readouts.values())}
    assert shapes == {1 + 2 * FRAMES}
    assert all(frames.shape == t.frames.shape for frames in rollout.readouts.values())


def test_frame_between_latents_has_the_mask_of_the_next():
    t = truth(chunks=1)
    chunk, _ = MODEL.step(MODEL.start(t.images[0], t.walk.cameras[0])[1], t.walk.cameras[1 : 1 + FRAMES])
    seen = pixels_known(chunk)
    cells = seen[:, ::8, ::8]
    assert torch.equal(cells, (chunk.readout.observed > 0).repeat_interleave(4, 0))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    config = loop.LoopConfig(
        out=tmp_path_factory.mktemp("loop"),
        paper_model="same",
        worlds=1,
        chunks=2,
        drift_worlds=1,
        drift_chunks=4,
        oracle_worlds=1,
        batch=1,
        sheets=0,
    )
    return loop.run(config, load)


def test_closed_loops_measure_every_variant(results):
    figures = results["loop"][ALL]
    assert list(figures) == ["full", "no_memory", "rgb", "paper", "bare", "refined", "simulator"]
    assert all(math.isfinite(variant["first_psnr"].mean) for variant in figures.values())
    assert math.isfinite(results["drift"]["fall"].mean)


def test_oracle_measures_every_row(results):
    assert all(math.isfinite(results["oracle"][row].mean) for row in ROWS)


def test_networks_and_speed_are_measured(tmp_path):
    parts = network_parts.run(network_parts.PartsConfig(out=tmp_path, worlds=1, views=2), load)
    assert math.isfinite(parts["figures"]["codec_psnr"].mean)
    timed = speed.run(speed.SpeedConfig(out=tmp_path, chunks=1, loop_chunks=0, threads=1), load)
    assert {"decode", "encode"} <= set(timed["time_shares"])
    rate, chunk = (timed["figures"][name]["value"] for name in ("frames_per_second", "chunk"))
    assert rate * chunk == pytest.approx(FRAMES)


def test_clips_are_walked_with_more_frames_than_latents(tmp_path):
    rooms = export_rooms.ExportConfig(
        tmp_path / "data", worlds=2, chunks=4, frames_per_chunk=FRAMES, size=(32, 32), images=True
    )
    export_rooms.run(rooms)
    options = re10k.Re10kConfig(tmp_path / "data", tmp_path / "out", scale=1.0, lpips="none", sheets=0)
    found = re10k.run(options, load)
    assert found["clips"] == 2
    assert len(found["by_frame"]["psnr"]) == 2 * FRAMES
    assert [len(found["by_chunk"][m]) for m in ("psnr", "ssim")] == [2, 2]
