"""A robot's views between its camera and the writer: none is lost before its pose, and what is lost is told."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ros_process import needs_ros
from worlds import open_minded_model

from mirage_env.camera import Camera
from mirage_env.interfaces import StartView
from mirage_env.poses import pose_from_rotation_vector
from ros_bridge import messages
from ros_bridge.inputs.observe_topics import ObserveTopics
from ros_bridge.inputs.rejected_inputs import RejectedInputs
from ros_bridge.messages.message_types import NANO
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer
from ros_bridge.sensing.view_queue import LostViews, ViewQueue

PERIOD = NANO // 10
SIZE = (48, 64)


def at(x):
    return pose_from_rotation_vector([x, 0.0, 0.0], np.zeros(3))


def queue(covered=lambda view: False, **sizes):
    now = [0.0]
    return now, ViewQueue(covered, lambda: 2.0, lambda: now[0], **sizes)


def looked_up(views):
    return list(iter(views.ready, None))


def test_views_wait_in_order_until_their_poses_have_come_or_their_time_is_over():
    known = [3]
    now, views = queue(lambda view: view <= known[0])
    for view in range(8):
        now[0] = 0.1 * view
        views.add(view)
    assert looked_up(views) == [0, 1, 2, 3]
    assert looked_up(views) == []
    now[0] = 2.51  # 4 and 5 have waited for two seconds
    assert looked_up(views) == [4, 5]
    known[0] = 7
    assert looked_up(views) == [6, 7]


def test_where_too_many_wait_for_poses_the_oldest_is_looked_up_and_none_is_dropped():
    _, views = queue(without_pose=3)
    for view in range(10):
        views.add(view)
    assert looked_up(views) == list(range(7))


def test_a_writer_that_is_behind_misses_the_views_that_moved_least():
    _, views = queue(posed=4)
    for x in (0.0, 0.5, 0.6, 1.2, 1.25, 2.0):
        views.put(x, at(x))
    assert [view for view, _ in iter(views.take, None)] == [0.0, 0.5, 1.2, 2.0]
    assert views.left_out == 2


@given(
    lost=st.sets(st.integers(6, 58)).filter(lambda s: all(not {i, i + 1, i + 2} <= s for i in s)),
    seed=st.integers(0, 99),
)
def test_lost_views_are_told_by_their_stamps(lost, seed):
    jitter = np.random.default_rng(seed).uniform(-0.1, 0.1, 60) * PERIOD
    if len(lost) > 12:  # the period is that of most steps
        lost = set(sorted(lost)[::4])
    counter = LostViews()
    for i in range(60):
        if i not in lost:
            counter.add(7 * NANO + i * PERIOD + round(jitter[i]))
    assert counter.count == len(lost)


def test_a_camera_that_was_off_and_a_bag_that_begins_again_have_lost_nothing():
    counter = LostViews()
    for began in (100 * NANO, 200 * NANO, 50 * NANO):
        for i in range(20):
            counter.add(began + i * PERIOD)
    assert counter.count == 0


class Wires:
    """A node that keeps callbacks and groups by topic, and timers."""

    def __init__(self):
        self.callbacks, self.groups, self.timer, self.guard = {}, {}, None, None

    def create_subscription(self, kind, topic, callback, quality, callback_group, qos_overriding_options):
        self.callbacks[topic], self.groups[topic] = callback, callback_group
        return topic

    def create_timer(self, seconds, callback, callback_group):
        self.timer = (callback, callback_group)

    def create_guard_condition(self, callback, callback_group):
        self.guard = SimpleNamespace(callback=callback, group=callback_group, triggered=False)
        self.guard.trigger = lambda: setattr(self.guard, "triggered", True)
        return self.guard


def wall(camera, depth):
    size = (camera.height, camera.width)
    return StartView(np.full((*size, 3), 90, np.uint8), camera, np.full(size, depth, np.float32))


@pytest.fixture
def robot():
    """The topics of ~/observe with a world that shows a wall two metres ahead, and messages for them."""
    model = open_minded_model()
    keep = replace(model.config.filters, edge_jump=0.2, edge_share=0.1)
    model = replace(model, config=replace(model.config, filters=keep))
    camera = Camera.from_fov(1.2, *model.config.image_size)
    refused, node = RejectedInputs(lambda text: None), Wires()
    with WorldPlayer(model, wall(camera, 2.0)) as player:
        parameters = WorldParameters(
            observe=True, frame_prefix="imagined/", observe_mount="0 0 0 0 0 0", observe_overlap=0.7
        )
        held = SimpleNamespace(options=parameters)
        topics = ObserveTopics(node, player, lambda: held.options, player.reset, refused, resumed=False)
        topics._queue._clock, now = lambda: now[0], [0.0]

        def show(stamp, depth=2.0, encoding="rgb8"):
            lens = Camera.from_fov(1.2, *SIZE)
            image = messages.image_message(np.full((*SIZE, 3), 90, np.uint8), stamp, "cam")
            image.encoding = encoding
            near = messages.depth_message(np.full(SIZE, depth, np.float32), stamp + PERIOD // 5, "cam")
            info = messages.camera_info_message(lens, stamp, "cam")
            for name, message in (("camera_info", info), ("image", image), ("depth", near)):
                node.callbacks[f"~/observe/{name}"](message)

        def stand(stamp, x=0.0):
            node.callbacks["~/observe/pose"](messages.pose_stamped_message(at(x), stamp, "map"))

        def run():
            if node.guard.triggered:
                node.guard.triggered = False
                node.guard.callback()
            return topics.counts

        yield SimpleNamespace(
            node=node,
            topics=topics,
            show=show,
            stand=stand,
            run=run,
            refused=refused,
            player=player,
            held=held,
            now=now,
        )


@needs_ros
def test_poses_that_come_later_than_the_image_are_waited_for(robot):
    robot.stand(0, 0.0)
    robot.show(PERIOD)
    assert robot.run()["written"] == 0
    assert not robot.refused.counts
    robot.stand(2 * PERIOD, 1.0)
    assert robot.run()["written"] == 1
    assert robot.player.state.camera.position == pytest.approx([0.0, 0.0, 0.5]), "halfway between the two poses"


@needs_ros
def test_a_view_that_is_known_is_told_by_its_depth_before_its_image_is_looked_at(robot):
    for i in range(3):
        robot.stand(i * PERIOD)
        robot.show(i * PERIOD, encoding="rgb8" if i == 0 else "yuv444")
    counts = robot.run()
    assert (counts["written"], counts["known"]) == (1, 2)
    robot.stand(3 * PERIOD)
    robot.show(3 * PERIOD, depth=1.0, encoding="yuv444")  # new: its image is needed
    assert robot.run()["written"] == 1
    assert "yuv444" in robot.refused.last["observe"]


@needs_ros
def test_a_robot_that_stands_writes_once_what_the_memory_does_not_keep(robot):
    fence = np.full(SIZE, 3.0, np.float32)
    fence[:, : SIZE[1] * 2 // 3] = np.where(np.arange(SIZE[1] * 2 // 3) // 4 % 2, 3.0, 5.0)  # edges, which are not kept
    for i in range(5):
        robot.stand(i * PERIOD)
        robot.show(i * PERIOD, depth=fence)
        counts = robot.run()
    assert (counts["written"], counts["known"]) == (1, 4)
    robot.stand(5 * PERIOD, 0.3)
    robot.show(5 * PERIOD, depth=fence)
    assert robot.run()["written"] == 2, "from elsewhere nothing of it is known"


@needs_ros
def test_nothing_that_comes_waits_for_what_is_written(robot):
    (_, images), writing = robot.node.timer, robot.node.guard.group
    groups = {topic: group for topic, group in robot.node.groups.items() if not topic.startswith("/tf")}
    assert {groups[f"~/observe/{name}"] for name in ("image", "depth", "camera_info")} == {images}
    poses = {groups[f"~/observe/{name}"] for name in ("odom", "pose")}
    assert len({images, writing, *poses}) == 3
    assert None not in {images, writing, *poses}


@needs_ros
def test_depth_without_a_picture_is_said_and_writes_nothing(robot):
    for i in range(12):
        robot.stand(i * PERIOD)
        depth = messages.depth_message(np.full(SIZE, 2.0, np.float32), i * PERIOD, "cam")
        robot.node.callbacks["~/observe/depth"](depth)
    assert "nothing arrives on image" in robot.topics.missing()
    assert robot.run() == {"written": 0, "known": 0, "left out": 0, "lost on the way": 0}


@needs_ros
def test_a_view_whose_pose_never_comes_is_refused_after_its_time_and_others_go_on(robot):
    robot.stand(0)
    robot.show(PERIOD)
    assert not robot.refused.counts
    robot.now[0] = robot.held.options.observe_wait + 0.01
    look, _ = robot.node.timer
    look()  # neither a view nor a pose comes: the timer
    assert robot.refused.counts["observe"] == 1
    assert "no pose in map" in robot.refused.last["observe"]
    robot.show(2 * PERIOD)
    robot.stand(3 * PERIOD)
    assert robot.run()["written"] == 1


@needs_ros
def test_views_lost_on_the_way_are_said_once_and_counted(robot):
    for i in (*range(10), 13, 14):
        robot.show(i * PERIOD)
    assert robot.topics.counts["lost on the way"] == 3
    assert "3 views were lost on the way" in robot.topics.missing()
    assert robot.topics.missing() is None
