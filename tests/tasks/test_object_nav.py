"""ObjectNav: things that are named or shown, in every world that knows some."""

from dataclasses import replace

import numpy as np
import pytest
from stand_ins import start_view
from task_worlds import (
    SMALL,
    STAY,
    mirage,
    model,
    room_view,
    rooms,
    rooms_made_once,  # noqa: F401
    towards,
)

from mirage_env.adapters import RgbdEnv
from mirage_env.adapters.rgbd_env import RgbdView
from mirage_env.camera import Camera
from mirage_env.envs.readout import ReadoutEnv
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import KnownObject
from mirage_env.rooms import Room
from mirage_env.tasks import ObjectNav
from mirage_env.tasks.object_nav import NAMES, facing


def readout(task):
    return ReadoutEnv(model(), start_views=room_view, task=task)


def test_things_of_a_room_are_where_the_view_shows_them():
    met = set()
    for seed in range(4):
        room = Room.generate(seed, "test")
        camera = room.start_camera(np.random.default_rng(seed), 64, 64)
        view = room.render(camera, samples=1)
        for thing in room.objects_around(camera):
            assert thing.name in NAMES
            assert (0.0 <= thing.position).all()
            assert (thing.position <= [*room.scene.shell[:2], 4.0]).all()
            met.add(thing.name)
            if thing.seen:
                ahead = facing(camera, thing)
                numbers = room.render(camera.at(ahead.T_world_cam), samples=1).instance
                assert thing.name in {room.scene.names[i] for i in np.unique(numbers) if i > 6}
        assert {room.scene.names[i] for i in np.unique(view.instance)} <= {"", *NAMES}
    assert len(met) > 5


@pytest.mark.parametrize("show", ["name", "image"])
def test_every_world_that_knows_the_room_has_the_same_goal(show):
    told = []
    for world in (rooms, mirage, readout):
        env = world(ObjectNav(show=show))
        seen, info = env.reset(seed=2)
        assert seen["goal"] in env.observation_space["goal"]
        if show == "name":
            assert seen["goal"].nonzero()[0] == [info["goal_index"]]
        told.append([*info["goal_position"], info["distance_to_goal"], info["angle_to_goal"], info["goal_index"]])
    np.testing.assert_allclose(told, told[:1] * 3, atol=1e-9)


def test_being_near_a_thing_of_that_name_and_facing_it_is_success():
    thing, twin = (KnownObject("sofa", np.array([x, 0.0, 2.0]), 0.5) for x in (-4.0, 0.0))
    env = mirage(ObjectNav(), start_view)
    for steps, turn, succeeds in ((1, 0.0, True), (0, 0.0, False), (1, 0.8, False)):
        _, info = env.reset(seed=0, options={"goal": (thing, twin)})
        assert info["distance_to_goal"] == pytest.approx(1.5)
        for _ in range(steps):
            env.step(np.array([0, 0, 1, 0, turn, 0], np.float32))
        *_, terminated, _, info = env.step(STAY)
        assert (terminated, info["is_success"], info["spl"] > 0.0) == (True, succeeds, succeeds)


@pytest.mark.parametrize("goals", ["seen", "behind"])
def test_goals_lie_where_they_were_asked_for(goals):
    behind = 0
    for seed in range(6):
        env = rooms(ObjectNav(goals=goals))
        _, info = env.reset(seed=seed)
        known = {tuple(o.position): o.seen for o in env.objects(env.get_world())}
        drawn = env.get_state().verdict.progress.objects[0]
        if (goals == "seen") in known.values():
            assert known[tuple(drawn.position)] == (goals == "seen")
        behind += info["angle_to_goal"] > np.radians(40)
    assert (behind > 3) == (goals == "behind")


def test_what_renders_may_know_its_things():
    class Scene:
        def __call__(self, camera, time):
            return RgbdView(np.zeros((16, 16, 3), np.uint8), np.full((16, 16), 3.0, np.float32))

        def objects(self, camera):
            return (KnownObject("cup", camera.position + np.array([0.0, 0.0, 2.0]), 0.1),)

    env = RgbdEnv(Scene(), Camera.from_fov(1.2, 16, 16), image_size=(16, 16), task=ObjectNav(names=("cup", "mug")))
    seen, info = env.reset(seed=0)
    assert (seen["goal"] == [1, 0]).all()
    assert info["distance_to_goal"] == pytest.approx(1.9)
    env.step(towards(np.array([0.0, 0.0, 1.0])))
    env.step(0.5 * towards(np.array([0.0, 0.0, 1.0])))
    *_, info = env.step(STAY)
    assert info["is_success"]


def test_bad_goals_and_worlds_without_things_are_refused():
    with pytest.raises(InvalidOptionError, match="knows no thing named one of"):
        mirage(ObjectNav(), start_view).reset(seed=0)
    wrong = KnownObject("unicorn", np.zeros(3), 0.5)
    for goal in ("sofa", wrong, [wrong]):
        with pytest.raises(InvalidOptionError, match="the option 'goal' has"):
            rooms("object_nav").reset(seed=0, options={"goal": goal})
    for bad, says in (({"names": ()}, "at least one name"), ({"show": "smell"}, "show is"), ({"angle": 0.0}, "angle")):
        with pytest.raises(InvalidOptionError, match=says):
            replace(ObjectNav(), **bad)
    assert SMALL["chunk_frames"] == 4
