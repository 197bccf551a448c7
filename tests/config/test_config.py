"""`mirage.json`."""

import dataclasses
import json

import pytest

from mirage_env.config.sampler import SamplerConfig
from mirage_env.config.world import (
    FORMAT_VERSION,
    FilterConfig,
    GateConfig,
    MemoryConfig,
    ReadoutConfig,
    WorldModelConfig,
)
from mirage_env.errors import InvalidOptionError, MirageError

CONFIG = WorldModelConfig(
    "small",
    image_size=(24, 32),
    latent_size=(3, 4),
    latent_channels=5,
    readout=ReadoutConfig(winner="nearest", footprint=0.0),
    gate=GateConfig(contradiction=1),
    memory=MemoryConfig(max_bytes=100),
    filters=FilterConfig(edge_share=0.5),
    sampler=SamplerConfig(steps=3, prediction="flow"),
)


def test_config_survives_saving(tmp_path):
    CONFIG.save(tmp_path)
    assert WorldModelConfig.load(tmp_path) == CONFIG


def test_only_what_has_no_default_must_be_in_the_file(tmp_path):
    (tmp_path / "mirage.json").write_text(
        '{"name": "a", "image_size": [32, 32], "latent_size": [4, 4], "latent_channels": 8}'
    )
    assert WorldModelConfig.load(tmp_path) == WorldModelConfig("a", (32, 32), (4, 4), 8)


def test_whole_numbers_stand_for_lengths(tmp_path):
    values = {**dataclasses.asdict(CONFIG), "far": 20}
    (tmp_path / "mirage.json").write_text(json.dumps(values))
    assert WorldModelConfig.load(tmp_path) == dataclasses.replace(CONFIG, far=20.0)


def test_stride_and_frames_follow():
    assert CONFIG.stride == 8
    assert CONFIG.frames_per_chunk == CONFIG.chunk_latents - 1


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.near = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_size": (24, 30)}, "multiple"),
        ({"image_size": (24, 64)}, "multiple"),
        ({"latent_size": (0, 4)}, "multiple"),
        ({"chunk_latents": 1}, "chunk_latents"),
        ({"preceding_latents": -1}, "preceding_latents"),
        ({"near": 0.0}, "near"),
        ({"near": 60.0}, "near"),
        ({"fov": 3.2}, "fov"),
        ({"frames_per_second": 0.0}, "frames_per_second"),
        ({"latent_channels": 0}, "latent_channels"),
        ({"version": FORMAT_VERSION + 1}, "version"),
    ],
)
def test_a_value_out_of_range_is_refused(change, says):
    with pytest.raises(InvalidOptionError, match=says):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("cls", "change", "says"),
    [
        (ReadoutConfig, {"winner": "bestfit"}, "winner is 'bestfit'; choose one of"),
        (ReadoutConfig, {"footprint": -1.0}, "footprint"),
        (ReadoutConfig, {"depth_tolerance": float("nan")}, "depth_tolerance"),
        (GateConfig, {"depth_change": -0.1}, "depth_change"),
        (GateConfig, {"contradiction": -1}, "contradiction"),
        (GateConfig, {"contradicting_views": 0}, "contradicting_views"),
        (GateConfig, {"max_confidence": 256}, "max_confidence"),
        (MemoryConfig, {"features": "int4"}, "features is 'int4'; choose one of"),
        (MemoryConfig, {"merge_tokens": -1}, "merge_tokens"),
        (MemoryConfig, {"max_bytes": -1}, "max_bytes"),
        (FilterConfig, {"edge_jump": -0.1}, "edge_jump"),
        (SamplerConfig, {"steps": 0}, "steps"),
        (SamplerConfig, {"shift": 0.0}, "shift"),
        (SamplerConfig, {"prediction": "noise"}, "prediction is 'noise'; choose one of"),
    ],
)
def test_a_part_out_of_range_is_refused(cls, change, says):
    with pytest.raises(InvalidOptionError, match=says):
        cls(**change)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda c: c.update(winner="nearest"), r"unknown keys \['winner'\]"),
        (lambda c: c["readout"].update(speed=1), r"mirage.json:readout has unknown keys \['speed'\]"),
        (lambda c: c.pop("latent_channels"), r"lacks the keys \['latent_channels'\]"),
        (lambda c: c.update(gate=3), "mirage.json:gate is 3"),
        (lambda c: c["readout"].update(winner="best"), "choose one of"),
        (lambda c: c["readout"].update(winner=3), "mirage.json:readout:winner is 3; give a text"),
        (lambda c: c.update(near="x"), "mirage.json:near is 'x'; give a value of type float"),
        (lambda c: c.update(near=None), "mirage.json:near is None"),
        (lambda c: c.update(near=True), "mirage.json:near is True"),
        (lambda c: c.update(chunk_latents=9.0), "mirage.json:chunk_latents is 9.0; give a value of type int"),
        (lambda c: c.update(name=7), "mirage.json:name is 7; give a text"),
        (lambda c: c.update(shares=7), "mirage.json:shares is 7"),
        (lambda c: c.update(image_size=[24]), r"mirage.json:image_size is \[24\]; give a list of 2"),
        (lambda c: c.update(image_size=["24", 32]), "mirage.json:image_size is '24'"),
        (lambda c: c["sampler"].update(couple=1), "mirage.json:sampler:couple is 1; give a value of type bool"),
    ],
)
def test_a_wrong_file_is_refused_by_the_key_at_fault(edit, says, tmp_path):
    values = dataclasses.asdict(CONFIG)
    edit(values)
    (tmp_path / "mirage.json").write_text(json.dumps(values))
    with pytest.raises(InvalidOptionError, match=says):
        WorldModelConfig.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_torn_file_is_refused(text, tmp_path):
    (tmp_path / "mirage.json").write_text(text)
    with pytest.raises(InvalidOptionError, match=r"mirage\.json"):
        WorldModelConfig.load(tmp_path)


def test_option_errors_are_the_projects_and_the_built_in_ones():
    assert issubclass(InvalidOptionError, MirageError)
    assert issubclass(InvalidOptionError, ValueError)
