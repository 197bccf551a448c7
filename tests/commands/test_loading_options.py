"""Every command that loads a model takes the options of loading it under the same names, and uses them."""

import dataclasses

import pytest

from mirage_env.cli import _parse
from mirage_env.errors import InvalidOptionError
from mirage_env.models.model_options import ModelOptions
from policies.rollout.command import Rollout, run_rollout
from policies.rollout.loop import Recipe

COMMANDS = {
    "walk": ["--out", "o"],
    "look": ["w"],
    "export": ["w", "--out", "o"],
    "view": [],
    "play": [],
    "learn": ["w", "--out", "o"],
    "serve": [],
    "rollout": [],
    **{f"eval {name}": [] for name in ("loop", "parts", "crispness", "speed")},
    **{f"eval {name}": ["--data", "d"] for name in ("re10k", "worldscore")},
    "eval clips": ["--clips", "c"],
}
GIVEN = ["--device", "cuda:7", "--sampler-steps", "4", "--guidance-scale", "2", "--image-size", "64", "96"]


@pytest.mark.parametrize(("name", "needed"), COMMANDS.items(), ids=COMMANDS)
def test_options_of_loading_have_the_same_names_everywhere(name, needed):
    words = name.split()
    options = _parse([*words, *needed, *GIVEN], ["mirage", *words])
    (loading,) = (value for value in vars(options).values() if isinstance(value, ModelOptions))
    assert loading.given() == {"device": "cuda:7", "steps": 4, "guidance_scale": 2.0, "image_size": (64, 96)}


def test_rollouts_load_their_model_so(tmp_path):
    nowhere = ModelOptions(device="nowhere", image_size=(64, 96))
    plan, _ = run_rollout(Rollout(out=tmp_path, networks=nowhere))
    said = plan.encode()["recipe"]  # as an episode has it too, which is replayed from there
    assert ModelOptions.of(said["loading"]) == nowhere
    with pytest.raises(InvalidOptionError, match="nowhere"):
        Recipe(**said).make_env()
    assert Recipe().loading == {}


def test_evaluations_load_their_model_so_and_say_it(tmp_path):
    from mirage_env.evaluation import crispness, loop, network_parts, own_clips, speed
    from mirage_env.evaluation.variants import settings_of

    configs = (
        (loop.run, loop.LoopConfig()),
        (network_parts.run, network_parts.PartsConfig()),
        (crispness.run, crispness.CrispnessConfig()),
        (speed.run, speed.SpeedConfig()),
        (own_clips.run, own_clips.ClipsEvalConfig(clips=tmp_path)),
    )
    for run, config in configs:
        assert "loading" not in settings_of(config)
        asked = dataclasses.replace(config, loading=ModelOptions(device="nowhere"))
        assert settings_of(asked)["loading"] == {"device": "nowhere"}
        if run is not own_clips.run:  # which reads its clips first
            with pytest.raises(InvalidOptionError, match="nowhere"):
                run(asked)
