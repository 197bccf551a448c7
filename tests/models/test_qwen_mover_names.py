"""Nouns from a language model: a tiny Qwen3-VL, and answers of every kind."""

import logging
from pathlib import Path

import numpy as np
import pytest
import tiny_geometry
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mirage_env.config.geometry import SegmentationConfig
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.images import frames_from_uint8
from mirage_env.models.geometry.loader import load_segmentation
from mirage_env.models.geometry.qwen_mover_names import MoverNamer, load_namer, parse_nouns, shown_size

FRAMES = torch.rand(8, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny_geometry.save_qwen3_vl(tmp_path_factory.mktemp("qwen3_vl"))


def load(checkpoint: Path, **settings) -> MoverNamer:
    config = SegmentationConfig("sam3", namer=str(checkpoint), **{"namer_tokens": 6} | settings)
    return load_namer(config, torch.device("cpu"), torch.float32)


# Asking


def test_the_same_frames_get_the_same_answer(checkpoint):
    namer = load(checkpoint)
    answer = namer.answer(FRAMES)
    assert answer
    torch.manual_seed(1)  # published checkpoints draw their words
    assert namer.answer(FRAMES) == answer


def test_the_answer_depends_on_the_frames(checkpoint):
    namer = load(checkpoint, namer_tokens=24)
    assert namer.answer(FRAMES) != namer.answer(-FRAMES)


@pytest.mark.parametrize("frames", [1, 3, 20])
def test_frames_are_shown_from_first_to_last(frames, checkpoint):
    seen = []
    namer = load(checkpoint, namer_frames=frames)
    hook = namer.module.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["grid_thw"]), with_kwargs=True
    )
    namer.answer(FRAMES)
    hook.remove()
    assert len(seen) == 1
    assert seen[0].tolist() == [[1, 4, 6]] * min(frames, 8)


def test_the_model_sees_what_its_own_processor_shows_it(checkpoint, rng):
    images = np.round(127.5 + 100 * np.sin(np.mgrid[:96, :160].sum(0)[..., None] / rng.uniform(5, 20, (2, 1, 1, 3))))
    images = images.astype(np.uint8)
    theirs = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 1024, "longest_edge": 64 * 96},
        patch_size=16,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )(list(images), return_tensors="pt")
    patches, grid = load(checkpoint, namer_pixels=64 * 96).patches(frames_from_uint8(images))
    assert torch.equal(grid, theirs.image_grid_thw)
    assert (patches - theirs.pixel_values).abs().max() < 5 / 255  # PIL rounds to whole levels


@given(st.integers(20, 2000), st.integers(20, 2000), st.integers(4096, 10**6))
def test_frames_are_shown_in_whole_patches_and_not_too_large(height, width, pixels):
    shown = shown_size(height, width, 32, pixels)
    assert shown[0] % 32 == shown[1] % 32 == 0
    assert min(shown) >= 32
    assert shown[0] * shown[1] <= max(pixels, height * width, 32 * max(shown)) * 1.6


def test_named_things_join_the_vocabulary_and_can_be_kept(checkpoint, tmp_path, monkeypatch):
    sam3 = tiny_geometry.save_sam3(tmp_path)
    config = SegmentationConfig(str(sam3), vocabulary=("person",), namer=str(checkpoint), namer_tokens=6)
    segmenter = load_segmentation(config, WorldModelConfig("tiny", (64, 96), (8, 12), 8), "cpu", torch.float32)
    monkeypatch.setattr(MoverNamer, "answer", lambda self, images: '["dog", "person"]')
    assert segmenter.nouns(FRAMES) == ("person", "dog")
    kept = segmenter.named(FRAMES)
    assert kept.vocabulary == ("person", "dog")
    assert kept.namer is None
    assert segmenter.vocabulary == ("person",)


def test_a_tokenizer_of_another_model_is_refused(checkpoint, tmp_path):
    for file in checkpoint.iterdir():
        text = file.read_bytes()
        (tmp_path / file.name).write_bytes(text.replace(b"<|image_pad|>", b"<|image_map|>"))
    with pytest.raises(InvalidOptionError, match="do not belong together"):
        load(tmp_path)


# Answers


@pytest.mark.parametrize(
    ("answer", "nouns"),
    [
        ('["person", "car"]', ("person", "car")),
        ('```json\n["Person", "a red car", "DOG"]\n```', ("person", "red car", "dog")),
        ('Here they are: ["boat"].', ("boat",)),
        ('[{"noun": "dog"}, {"noun": "cat"}]', ("dog", "cat")),
        ("['dog', 'cat']", ("dog", "cat")),
        ('["person", "ca', ("person", "ca")),
        ("- dog\n- cat\n", ("dog", "cat")),
        ("1. The dog\n2) cat", ("dog", "cat")),
        ("Person, car.", ("person", "car")),
        ('<think>["tree"]</think>["bus"]', ("bus",)),
        ('["dog", "Dog", "the dog"]', ("dog",)),
        ('["a", "b", "c", "d"]', ("a", "b", "c")),
    ],
)
def test_answers_in_any_form_are_read(answer, nouns, caplog):
    assert parse_nouns(answer, 3) == nouns
    assert not caplog.records


@pytest.mark.parametrize("answer", ["[]", "none", "None.", '["none"]', "<think>a dog?</think>[]"])
def test_an_answer_may_say_that_nothing_moves(answer, caplog):
    assert parse_nouns(answer, 3) == ()
    assert not caplog.records


@pytest.mark.parametrize(
    "answer",
    ["", "  ", "I cannot see it", "There is a dog and a car.", "[1, 2]", "{}", "...", "\ufffd\u00df", "x" * 500],
)
def test_nonsense_names_nothing_and_is_logged(answer, caplog):
    with caplog.at_level(logging.WARNING):
        assert parse_nouns(answer, 3) == ()
    assert len(caplog.records) == 1


@given(st.text() | st.lists(st.text()).map(str), st.integers(1, 5))
def test_no_answer_breaks_anything(answer, most):
    nouns = parse_nouns(answer, most)
    assert len(nouns) <= most
    assert all(noun and noun == noun.strip().lower() and len(noun.split()) <= 3 for noun in nouns)
