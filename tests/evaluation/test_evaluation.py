"""The evaluation measures what it says: metrics, paths, variants, and whole runs with a tiny model."""

import dataclasses
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from repository import ROOT
from stand_ins import Labels
from tiny import tiny_world_model

from mirage_env import load_world_model
from mirage_env.config.world import FilterConfig
from mirage_env.errors import InvalidOptionError, ModelNotFoundError
from mirage_env.evaluation import loop, network_parts, report, speed
from mirage_env.evaluation.loop_walks import ALL, FAMILIES, loop_walk
from mirage_env.evaluation.metrics import PSNR_LIMIT, dilate, estimate, paired, psnr, ssim
from mirage_env.evaluation.oracle import ROWS, oracle_record
from mirage_env.evaluation.variant_rollout import measure, roll_out, true_views
from mirage_env.evaluation.variants import BlankMemory, load_paper, variant
from mirage_env.memory.rgb import RgbMemory
from mirage_env.poses import rotation_angle
from mirage_env.rooms import Room

TINY = tiny_world_model()
KEEP_EDGES = replace(TINY.config, filters=FilterConfig(edge_share=1.0))
MODEL = replace(TINY, segmenter=Labels(), config=KEEP_EDGES)
PER_CHUNK = MODEL.config.frames_per_chunk


def load(name):
    if name != "tiny":
        raise ModelNotFoundError(f"no world model {name!r}")
    return MODEL


def pictures(seed, frames=2, size=32):
    return torch.rand(frames, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def walk_of(family, seed=0, chunks=4, lap=2):
    room, rng = Room.generate(seed, "test"), np.random.default_rng(seed)
    return loop_walk(family, room, rng, chunks, PER_CHUNK, lap * PER_CHUNK, 32, 32)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return loop.LoopConfig(
        out=tmp_path_factory.mktemp("loop"),
        model="tiny",
        paper_model="tiny",
        worlds=2,
        chunks=2,
        drift_worlds=3,
        drift_chunks=4,
        oracle_worlds=2,
        batch=2,
        sheets=1,
    )


@pytest.fixture(scope="module")
def results(config):
    return loop.run(config, load)


class TestMetrics:
    def test_identical_images_have_the_highest_psnr_and_ssim(self):
        images = pictures(0)
        assert (psnr(images, images) == PSNR_LIMIT).all()
        assert torch.allclose(ssim(images, images), torch.ones(2))

    def test_psnr_of_a_known_error(self):
        images = torch.zeros(1, 3, 8, 8)
        assert psnr(images, images + 0.2).item() == pytest.approx(20.0, abs=1e-4)

    @pytest.mark.parametrize("metric", [psnr, ssim])
    def test_errors_outside_the_mask_have_no_influence(self, metric):
        reference = pictures(0)
        images = (reference + 0.1 * pictures(1)).clamp(-1, 1)
        mask = torch.zeros(2, 32, 32, dtype=torch.bool)
        mask[:, :, :20] = True
        spoiled = torch.where(mask[:, None], images, pictures(2))
        assert torch.allclose(metric(images, reference, mask), metric(spoiled, reference, mask))

    def test_empty_mask_is_not_a_number(self):
        images = pictures(0)
        assert psnr(images, images, torch.zeros(2, 32, 32)).isnan().all()

    def test_ssim_is_the_published_formula(self):
        images, reference = pictures(0, size=13), pictures(1, size=13)
        mask = torch.zeros(2, 13, 13, dtype=torch.bool)
        mask[:, 5:8, 5:8] = True
        seen = torch.where(mask[:, None], images, reference).double()
        offsets = torch.arange(-5.0, 6.0, dtype=torch.float64)
        window = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
        window /= window.sum()
        expected = []
        for x, y in zip(seen, reference.double(), strict=True):
            values = []
            for channel, row, column in itertools.product(range(3), range(5, 8), range(5, 8)):
                place = (channel, slice(row - 5, row + 6), slice(column - 5, column + 6))
                a, b = x[place], y[place]
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb, cov = ((window * c).sum() for c in ((a - ma) ** 2, (b - mb) ** 2, (a - ma) * (b - mb)))
                c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
                values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
            expected.append(sum(values) / len(values))
        assert torch.allclose(ssim(images, reference, mask).double(), torch.stack(expected), atol=1e-5)

    @pytest.mark.parametrize("metric", [psnr, ssim])
    def test_shapes_that_do_not_fit_are_refused(self, metric):
        with pytest.raises(InvalidOptionError, match="must be"):
            metric(pictures(0), pictures(0, 3))
        with pytest.raises(InvalidOptionError, match="mask"):
            metric(pictures(0), pictures(0), torch.ones(2, 4, 4))

    def test_dilated_mask_covers_a_square_around_a_pixel(self):
        mask = torch.zeros(1, 9, 9, dtype=torch.bool)
        mask[0, 4, 4] = True
        assert dilate(mask, 2).sum() == 25

    def test_estimate_is_the_mean_with_its_standard_error(self):
        values = np.random.default_rng(0).normal(3.0, 2.0, 400)
        found = estimate([*values, math.nan])
        assert found.mean == pytest.approx(values.mean())
        assert found.error == pytest.approx(values.std(ddof=1) / 20.0)
        assert found.count == 400

    def test_paired_differences_do_not_see_what_worlds_have_in_common(self):
        rng = np.random.default_rng(0)
        worlds = {w: float(rng.normal(20.0, 5.0)) for w in range(50)}
        better = {w: x + 1.0 + float(rng.normal(0.0, 0.1)) for w, x in worlds.items()}
        found = paired(better, worlds)
        assert found.mean == pytest.approx(1.0, abs=0.1)
        assert found.error < 0.03
        assert estimate(worlds.values()).error > 0.5

    def test_worlds_that_only_one_side_has_are_left_out_of_a_pair(self):
        assert paired({0: 1.0, 1: 5.0, 2: math.nan}, {0: 0.5, 2: 1.0}).count == 1


class TestPaths:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("lap", [2, 4])
    def test_revisits_have_identical_poses_and_an_earlier_chunk(self, family, lap):
        walk = walk_of(family, lap=lap)
        pairs = walk.revisits
        assert pairs
        for first, again in pairs:
            assert np.array_equal(walk.cameras[first].T_world_cam, walk.cameras[again].T_world_cam)
            assert walk.chunk_of(first) < walk.chunk_of(again)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_second_half_revisits_poses_of_the_first(self, family):
        walk = walk_of(family, chunks=8, lap=4 if family == "orbit" else 8)
        half = len(walk.cameras) // 2
        assert {again for _, again in walk.revisits} >= set(range(half + 1, len(walk.cameras)))
        assert all(first <= half for first, _ in walk.revisits)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_cameras_stay_in_free_space_and_move_in_small_steps(self, family):
        walk, room = walk_of(family, seed=3, chunks=8, lap=8), Room.generate(3, "test")
        for a, b in zip(walk.cameras, walk.cameras[1:], strict=False):
            assert room.is_free(b.position)
            assert np.linalg.norm(a.position - b.position) < 0.2
            assert rotation_angle(a.T_cam_world @ b.T_world_cam) < math.radians(8.0)

    def test_looking_away_loses_the_start_from_view(self):
        walk = loop_walk("look_away", Room.generate(0, "test"), np.random.default_rng(0), 8, 8, 64, 32, 32)
        turned = max(rotation_angle(walk.cameras[0].T_cam_world @ c.T_world_cam) for c in walk.cameras)
        assert turned > math.radians(75.0)

    def test_chunk_two_comes_back_in_the_drift_walk(self):
        lap = loop.LoopConfig().drift_lap
        walk = walk_of("orbit", chunks=16, lap=lap)
        for again in (2 + lap, 2 + 2 * lap):
            frames = [[i for i in range(len(walk.order)) if walk.chunk_of(i) == c] for c in (2, again)]
            assert [walk.order[i] for i in frames[0]] == [walk.order[i] for i in frames[1]]

    def test_unknown_family_is_refused_by_name(self):
        with pytest.raises(InvalidOptionError, match="zigzag"):
            walk_of("zigzag")


class TestVariants:
    def test_blanked_memory_reads_nothing_whatever_was_written(self):
        model = variant("no_memory", MODEL)
        walk = walk_of("orbit")
        image = Room.generate(0, "test").render(walk.cameras[0]).image
        _, state = model.start(image, walk.cameras[0])
        chunk, after = model.step(state, walk.cameras[1 : 1 + PER_CHUNK])
        assert isinstance(after.memory, BlankMemory)
        assert chunk.coverage == 0.0
        assert not chunk.readout.latent.any()
        assert after.memory.points == after.memory.nbytes == 0

    def test_rgb_variant_shares_the_networks(self):
        model = variant("rgb", MODEL)
        assert model.generator is MODEL.generator
        assert isinstance(model.memory_factory(model.config), RgbMemory)

    def test_missing_or_unfit_paper_weights_are_a_note(self):
        paper, note = load_paper("rooms-paper", MODEL, load)
        assert paper is None
        assert "not measured" in note
        longer = replace(MODEL, config=replace(MODEL.config, chunk_latents=9))
        paper, note = load_paper("other", MODEL, lambda name: longer)
        assert paper is None
        assert "cannot walk" in note

    def test_paper_weights_of_the_repository_are_the_shipped_model_with_their_own_generator(self):
        paper = load_world_model(ROOT / "benchmarks/evaluation/rooms-paper")
        found, _ = load_paper("paper", load_world_model("rooms", image_size=paper.config.image_size), lambda _: paper)
        assert found is paper
        assert (paper.generator.branch is not None, paper.generator.detail is None) == (True, True)

    def test_unknown_variant_is_refused(self):
        with pytest.raises(InvalidOptionError, match="magic"):
            variant("magic", MODEL)
        with pytest.raises(InvalidOptionError, match="full"):
            loop.LoopConfig(variants=("rgb",))


class TestLoop:
    def test_simulator_repeats_itself_exactly_while_time_stands_still(self):
        truth = true_views(0, Room.generate(0, "test"), walk_of("orbit"), start=1.0, seconds=0.0)
        figures = measure(truth, truth.frames, torch.ones_like(truth.still))
        assert figures["first_psnr"] == figures["truth_psnr"] == PSNR_LIMIT

    def test_world_is_the_same_whatever_other_worlds_walk_with_it(self):
        truths = [true_views(s, Room.generate(s, "test"), walk_of("orbit", s), 0.0, 0.125) for s in (0, 1)]
        both, alone = roll_out(MODEL, truths), roll_out(MODEL, truths[1:])
        assert torch.allclose(both[1].frames, alone[0].frames, atol=1e-3)
        assert both[1].points == alone[0].points

    def test_error_on_revisits_shows_in_revisit_figures_only(self):
        truth = true_views(0, Room.generate(0, "test"), walk_of("out_and_back", lap=4), 0.0, 0.0)
        frames = truth.frames.clone()
        frames[-1] = -frames[-1]
        figures = measure(truth, frames, torch.ones_like(truth.still))
        assert figures["new_psnr"] == PSNR_LIMIT
        assert figures["first_psnr"] < PSNR_LIMIT
        assert math.isnan(figures["new_unseen_psnr"])

    def test_oracle_has_all_rows_and_a_raster_no_worse_than_its_encoding(self):
        figures = oracle_record(MODEL, world=0, seed=0)["figures"]
        assert set(ROWS) <= set(figures)
        assert figures["rgb_raster"] > figures["rgb_encoded"]
        assert 0.0 < figures["latent_seen"] <= 1.0

    def test_run_measures_every_variant_on_every_world(self, results):
        for family in (*FAMILIES, ALL):
            found = results["loop"][family]
            assert list(found) == ["full", "no_memory", "rgb", "paper", "bare", "refined", "simulator"]
            assert all(figures["first_psnr"].count == 2 for figures in found.values())
        assert results["drift"]["fall"].count == 3
        assert results["oracle"]["codec"].count == 2
        assert results["cost"]["no_memory"]["points_per_chunk"] == 0 < results["cost"]["full"]["points_per_chunk"]

    def test_the_same_weights_as_paper_variant_make_no_difference(self, results):
        gain = results["paired"][ALL]["full - paper"]["truth_psnr"]
        assert gain.mean == pytest.approx(0.0, abs=1e-3)

    def test_run_writes_numbers_a_table_plots_and_sheets(self, results, config):
        written = json.loads((config.out / "results.json").read_text())
        assert written["models"]["full"] == MODEL.identity
        table = (config.out / "table.md").read_text()
        assert "(a) full model" in table
        assert "not measured" not in table.split("## Notes")[0]
        for name in ("bars.png", "frames.png", "drift.png", "world_00.png"):
            assert (config.out / name).stat().st_size > 0
        assert not (config.out / "world_01.png").exists()

    def test_stopped_run_goes_on_where_it_ended(self, results, config):
        with (config.out / "worlds.jsonl").open("a") as file:
            file.write('[{"experiment": "lo')
        again = loop.run(config, load)
        assert report.without_nan(again["loop"]) == report.without_nan(results["loop"])

    def test_results_of_other_settings_are_not_mixed(self, results, config):
        with pytest.raises(InvalidOptionError, match="other settings"):
            loop.run(replace(config, seed=1), load)

    def test_missing_paper_variant_leaves_a_note(self, tmp_path):
        config = loop.LoopConfig(
            out=tmp_path, model="tiny", worlds=1, chunks=2, drift_worlds=0, oracle_worlds=0, variants=("full", "paper")
        )
        results = loop.run(config, load)
        assert any("rooms-paper" in note for note in results["notes"])
        assert "rooms-paper" in (tmp_path / "table.md").read_text()


class TestParts:
    def test_parts_are_measured_and_written(self, tmp_path):
        results = network_parts.run(network_parts.PartsConfig(out=tmp_path, model="tiny", worlds=2, views=2), load)
        assert results["figures"]["codec_psnr"].count == 2
        assert set(results["iou"]) == {"mover", "sky", "mover_or_sky"}
        assert "depth abs-rel" in (tmp_path / "parts.md").read_text()

    def test_depth_error_counts_surfaces_only(self):
        true = torch.tensor([[[1.0, 2.0, torch.inf]]])
        assert network_parts.abs_rel(torch.tensor([[[1.1, 1.8, 50.0]]]), true) == pytest.approx(0.1)


class TestSpeed:
    def test_clocks_change_nothing(self):
        watched = speed.timed(MODEL, speed.Clock())
        walk = walk_of("orbit")
        image = Room.generate(0, "test").render(walk.cameras[0]).image
        path = walk.cameras[1 : 1 + PER_CHUNK]
        chunks = [m.step(m.start(image, walk.cameras[0])[1], path)[0] for m in (MODEL, watched)]
        assert torch.equal(chunks[0].frames, chunks[1].frames)

    def test_speed_is_measured_with_units_and_compared(self, tmp_path):
        config = speed.SpeedConfig(out=tmp_path, model="tiny", chunks=2, loop_chunks=3, threads=1)
        results = speed.run(config, load)
        assert all(f["unit"] and f["better"] in ("higher", "lower") for f in results["figures"].values())
        assert sum(results["time_shares"].values()) == pytest.approx(1.0)
        parts = {"readout", "refine", "generate", "decode", "depth", "segment", "encode", "write", "other"}
        assert set(results["time_shares"]) == parts
        assert len(results["resident_curve_mib"]) == 3
        assert all(f["unit"] in speed.table(results) for f in results["figures"].values())
        ratios = speed.compare(results, tmp_path / "speed.json")
        assert all(r == pytest.approx(1.0) for r in ratios.values())

    def test_ratio_above_one_is_better(self, tmp_path):
        figure = dataclasses.asdict(speed.Figure(20.0, "frames/s", "higher"))
        (tmp_path / "old.json").write_text(json.dumps({"figures": {"a": figure, "b": {**figure, "better": "lower"}}}))
        now = {"figures": {"a": {**figure, "value": 40.0}, "b": {**figure, "value": 40.0, "better": "lower"}}}
        assert speed.compare(now, tmp_path / "old.json") == {"a": 2.0, "b": 0.5}

    def test_wrong_baseline_is_refused(self, tmp_path):
        with pytest.raises(InvalidOptionError, match="baseline"):
            speed.compare({"figures": {}}, tmp_path / "none.json")
