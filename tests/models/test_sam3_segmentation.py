"""Movers and sky by their names: tiny SAM 3 checkpoints, image and video, loaded as those of the hub are."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tiny_geometry
import torch
from tiny import tiny_world_model

from mirage_env.config.geometry import GeometryConfig, SegmentationConfig
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidOptionError, ModelNotFoundError, WeightsError
from mirage_env.interfaces import MOVER, SKY, STATIC
from mirage_env.models.geometry.loader import load_segmentation
from mirage_env.models.geometry.sam3_segmentation import ConceptFinder, ConceptTracker, VocabularySegmenter
from mirage_env.models.small.segmentation_unet import AllStatic

H, W, F = 40, 64, 4
CONFIG = WorldModelConfig("tiny", (H, W), (5, 8), 8)
NOUNS = ["person", "red car", "sky"]
SCORE = 0.1
"""Random weights are never sure."""


@pytest.fixture(scope="module")
def image_model(tmp_path_factory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return tiny_geometry.save_sam3(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def video_model(tmp_path_factory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return tiny_geometry.save_sam3(tmp_path_factory.mktemp("sam3_video"), video=True, width=128)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(F, 3, H, W, generator=torch.Generator().manual_seed(0)) * 2 - 1


def load(folder: Path, dtype: torch.dtype = torch.float32, **settings) -> VocabularySegmenter:
    return load_segmentation(SegmentationConfig(str(folder), **{"score": SCORE} | settings), CONFIG, "cpu", dtype)


# Labels


@dataclass
class Stripes:
    """Finds noun i in column i, and everything in column 0 (`Finder`)."""

    asked: list[str]

    def find(self, images, nouns):
        self.asked = list(nouns)
        found = torch.zeros(len(nouns), len(images), *images.shape[-2:], dtype=torch.bool)
        found[..., 0] = True
        for i in range(len(nouns)):
            found[i, :, :, 1 + i] = True
        return found


def test_what_the_vocabulary_names_moves_and_a_mover_before_the_sky_is_one(images):
    labels = VocabularySegmenter(Stripes([]), ("dog", "cat"), "sky").segment(images)
    assert labels.shape == (F, H, W)
    assert labels.dtype == torch.int64
    assert labels[0, 0, :5].tolist() == [MOVER, MOVER, MOVER, SKY, STATIC]


def test_without_a_sky_noun_no_sky_is_looked_for(images):
    finder = Stripes([])
    labels = VocabularySegmenter(finder, ("dog",), "").segment(images)
    assert finder.asked == ["dog"]
    assert not (labels == SKY).any()


def test_with_nothing_to_look_for_nobody_is_asked(images):
    assert (VocabularySegmenter(None, (), "").segment(images) == STATIC).all()


# SAM 3 on every frame


def test_found_pixels_are_those_of_the_model_asked_frame_by_frame(image_model, images):
    finder = load(image_model).finder
    assert isinstance(finder, ConceptFinder)
    found = finder.find(images, NOUNS)
    assert found.shape == (len(NOUNS), F, H, W)
    assert 0.0 < found.float().mean() < 1.0
    for n, noun in enumerate(NOUNS):
        words = finder.tokenizer([noun], padding="max_length", max_length=32, return_tensors="pt")
        for f in range(F):
            pixels = torch.nn.functional.interpolate(images[f : f + 1], (56, 56), mode="bilinear", antialias=True)
            with torch.inference_mode():
                out = finder.module(pixel_values=pixels, **words)
            scores = out.pred_logits.sigmoid()[0] * out.presence_logits.sigmoid()[0]
            seen = torch.zeros(1, 1, *out.pred_masks.shape[-2:])
            for score, mask in zip(scores, out.pred_masks[0].sigmoid(), strict=True):
                seen = torch.maximum(seen, mask) if score > SCORE else seen
            wanted = torch.nn.functional.interpolate(seen, (H, W), mode="bilinear")[0, 0]
            sure = (wanted - 0.5).abs() > 1e-4
            assert torch.equal(found[n, f][sure], (wanted > 0.5)[sure])


def test_a_higher_score_or_mask_limit_finds_less(image_model, images):
    found = load(image_model).finder.find(images, NOUNS)
    fewer = load(image_model, mask=0.7).finder.find(images, NOUNS)
    assert not (fewer & ~found).any()
    assert fewer.sum() < found.sum()
    assert not load(image_model, score=0.99).finder.find(images, NOUNS).any()


def test_in_half_precision_most_pixels_stay(image_model, images):
    exact = load(image_model).segment(images)
    rounded = load(image_model, torch.bfloat16).segment(images)
    assert rounded.dtype == torch.int64
    assert (exact == rounded).float().mean() > 0.9


# SAM 3's video model


def test_a_single_frame_is_found_the_same_with_and_without_tracking(video_model, images):
    tracker, finder = load(video_model, tracking=True).finder, load(video_model).finder
    assert isinstance(tracker, ConceptTracker)
    found = finder.find(images[:1], NOUNS)
    assert 0.0 < found.float().mean() < 1.0
    assert torch.equal(tracker.find(images[:1], NOUNS), found)


def test_tracking_follows_what_was_found_and_remembers_no_chunk(video_model, images):
    tracker = load(video_model, tracking=True).finder
    still = images[:1].expand(3, -1, -1, -1)
    found = tracker.find(still, ["person"])
    assert found.shape == (1, 3, H, W)
    assert torch.equal(tracker.find(still, ["person"]), found)


# Loading


def test_tracking_needs_the_video_model(image_model):
    with pytest.raises(InvalidOptionError, match="tracking needs a 'sam3_video'"):
        load(image_model, tracking=True)


def test_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "sam2"}')
    with pytest.raises(InvalidOptionError, match="'sam2'"):
        load(tmp_path)


def test_missing_weights_and_tokenizers_are_told(image_model, tmp_path):
    weights = tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_bytes((image_model / "config.json").read_bytes())
    with pytest.raises(ModelNotFoundError, match="tokenizer"):
        load(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((image_model / name).read_bytes())
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors"):
        load(tmp_path)
    weights.write_bytes((image_model / "model.safetensors").read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="damaged"):
        load(tmp_path)


def test_without_a_model_everything_is_static(images):
    for segmenter in (load_segmentation(None, CONFIG), load_segmentation(SegmentationConfig(), CONFIG)):
        assert isinstance(segmenter, AllStatic)
        assert torch.equal(segmenter.segment(images), torch.full((F, H, W), STATIC))


def test_vocabulary_and_limits_may_stand_in_the_configuration_of_the_world(image_model, tmp_path):
    geometry = GeometryConfig(segmentation=SegmentationConfig(vocabulary=("bird",), score=0.3, sky=""))
    replace(CONFIG, geometry=geometry).save(tmp_path)
    segmenter = load_segmentation(image_model, WorldModelConfig.load(tmp_path))
    assert segmenter.vocabulary == ("bird",)
    assert segmenter.sky == ""
    assert segmenter.finder.score == 0.3


@pytest.mark.parametrize(
    "settings",
    [{"score": 0.0}, {"mask": 1.0}, {"vocabulary": (" ",)}, {"namer": "x"}, {"max_nouns": 0}, {"namer_frames": 0}],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InvalidOptionError, match=next(iter(settings))):
        SegmentationConfig(**settings)


def test_movers_and_sky_stay_out_of_the_memory(image_model, rng):
    model = tiny_world_model()
    model = replace(model, segmenter=load(image_model))
    chunk, state = model.start(rng.integers(0, 255, (32, 32, 3), np.uint8))
    for _ in range(2):
        chunk, state = model.step(state, [state.camera] * model.config.frames_per_chunk)
        full = torch.nn.functional.avg_pool2d((chunk.labels != STATIC).float(), 8) > 0.15
        assert full.any()
        assert not (chunk.keep & full).any()
