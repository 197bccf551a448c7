"""Parts of the nodes without a network: callbacks are called by hand, with real messages."""

from types import SimpleNamespace

import numpy as np
import pytest
from ros_process import needs_ros
from worlds import open_minded_model

from mirage_env.camera import Camera
from mirage_env.errors import InvalidImageError
from ros_bridge import messages
from ros_bridge.inputs.rejected_inputs import RejectedInputs
from ros_bridge.inputs.rgbd_topics import RgbdTopics
from ros_bridge.inputs.start_topics import StartTopics
from ros_bridge.messages.message_types import NANO
from ros_bridge.nodes.world_node import WorldNode
from ros_bridge.outputs.publishers import fitted_camera
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.timing.node_time import NodeTime

pytestmark = needs_ros
SIZE = (48, 64)


class Wires:
    """A node that keeps callbacks and qualities by topic."""

    def __init__(self):
        self.callbacks, self.qualities = {}, {}

    def create_subscription(self, kind, topic, callback, quality, callback_group, qos_overriding_options):
        self.callbacks[topic], self.qualities[topic] = callback, quality
        return topic


def camera_topics(needs_depth=False, **options):
    """Topics of a camera; returns the node, the complete sets as they come, and what is refused."""
    node, taken, refused = Wires(), [], RejectedInputs(lambda text: None)
    topics = RgbdTopics(node, "~/start", WorldParameters(**options), needs_depth, taken.append, refused, None)
    return SimpleNamespace(send=lambda name, m: node.callbacks[f"~/start/{name}"](m), taken=taken, refused=refused,
                           topics=topics, qualities=node.qualities)  # fmt: skip


def picture_message(stamp=5, value=200):
    image = np.zeros((*SIZE, 3), np.uint8)
    image[:, 32:] = value
    return messages.image_message(image, stamp, "cam")


def lens_message(stamp=5, distortion=0.0):
    message = messages.camera_info_message(Camera.from_fov(1.2, *SIZE), stamp, "cam")
    message.d = [distortion, 0.0, 0.0, 0.0, 0.0]
    return message


@pytest.mark.parametrize(("given", "height"), [(1.5, 1.5), (0.0, None)])
def test_a_robots_start_view_is_as_high_as_its_camera(given, height):
    options, node, opened = WorldParameters(camera_height=given, camera_tilt=20.0), Wires(), []
    refused = RejectedInputs(lambda text: None)
    StartTopics(node, open_minded_model().config, lambda: options, opened.append, None, refused, None)
    for name, message in (("image", picture_message()), ("camera_info", lens_message())):
        node.callbacks[f"~/start/{name}"](message)
    assert opened[0].camera_height == (height and pytest.approx(height))


def test_cameras_are_heard_best_effort_as_they_publish_and_wait_half_a_second_for_a_busy_node():
    from rclpy.qos import ReliabilityPolicy

    found = camera_topics(needs_depth=True).qualities
    assert len(found) == 5
    assert {quality.reliability for quality in found.values()} == {ReliabilityPolicy.BEST_EFFORT}
    assert min(quality.depth for quality in found.values()) >= 15, "of 30 Hz"


@pytest.mark.parametrize("size", [(48, 96), (96, 48), (30, 40), (64, 64)])
def test_published_images_of_another_aspect_are_cropped_and_keep_their_rays(size):
    camera = Camera.from_fov(1.2, 64, 64)
    fitted, box = fitted_camera(camera, size)
    assert (fitted.height, fitted.width) == size
    assert fitted.K_image[0, 0] == pytest.approx(fitted.K_image[1, 1]), "pixels stay square"
    for x, y in ((0.0, 0.0), (0.2, -0.1), (-0.1, 0.2)):
        u, v, _ = camera.K_image @ [x, y, 1.0]
        shown = (u - box[0]) * size[1] / (box[2] - box[0]), (v - box[1]) * size[0] / (box[3] - box[1])
        np.testing.assert_allclose((fitted.K_image @ [x, y, 1.0])[:2], shown)
    assert 64 in (box[2] - box[0], box[3] - box[1]), "nothing is cropped that would fit"


def test_limits_act_while_the_node_runs_and_what_would_not_is_refused():
    from rclpy.parameter import Parameter

    said, player = [], SimpleNamespace(limits=None)
    node = SimpleNamespace(player=player, options=WorldParameters(), refusals=RejectedInputs(said.append))
    done = WorldNode._on_parameters(node, [Parameter("max_speed", value=0.25)])
    assert (done.successful, node.options.max_speed, player.limits.speed) == (True, 0.25, 0.25)
    before = node.options
    for name, value in (("rate", 10.0), ("publish_width", 64), ("frame_prefix", "a/"), ("observe", True)):
        refused = WorldNode._on_parameters(node, [Parameter("max_turn", value=0.5), Parameter(name, value=value)])
        assert not refused.successful
        assert f"{name} take effect when the node is configured" in refused.reason
        assert node.options is before, "half of a request is none of it"
    assert not WorldNode._on_parameters(node, [Parameter("max_turn", value=-1.0)]).successful
    node.player = None
    assert WorldNode._on_parameters(node, [Parameter("rate", value=10.0)]).successful


@pytest.mark.parametrize("rectified", [False, True])
def test_distorted_images_are_rectified_unless_the_parameter_says_that_they_are(rectified):
    camera = camera_topics(rectified=rectified)
    camera.send("camera_info", lens_message(distortion=-0.3))
    camera.send("image", picture_message())
    (found,) = camera.taken
    raw = messages.image_from_message(found.image)
    assert np.array_equal(found.rectifier.image(raw), raw) is rectified


@pytest.mark.parametrize(("late", "matches"), [(0.001, True), (17.0, True), (29.0, True), (31.0, False)])
def test_depth_belongs_to_the_image_within_the_slop(late, matches):
    camera = camera_topics(needs_depth=True, sync_slop=0.03)
    camera.send("camera_info", lens_message())
    stamp = 7 * NANO
    camera.send("image", picture_message(stamp))
    depth = messages.depth_message(np.full(SIZE, 2.0, np.float32), stamp + round(late * 1e6), "cam")
    camera.send("depth", depth)
    assert len(camera.taken) == matches


def test_compressed_images_and_depth_are_taken_and_wrong_encodings_are_refused_by_name():
    camera = camera_topics(needs_depth=True)
    camera.send("camera_info", lens_message())
    raw = messages.image_from_message(picture_message())
    camera.send("image/compressed", messages.compressed_message(raw, 5, "cam", "png"))
    camera.send("depth", messages.depth_message(np.full(SIZE, 2.0, np.float32), 5, "cam"))
    config = open_minded_model().config
    view = camera.taken[0].view(config)
    assert 195 <= view.image.max() <= 205
    assert view.depth.max() == 2.0
    strange = picture_message(9)
    strange.encoding = "yuv444"
    camera.send("image", strange)
    camera.send("depth", messages.depth_message(np.full(SIZE, 2.0, np.float32), 9, "cam"))
    with pytest.raises(InvalidImageError, match="yuv444"):
        camera.taken[1].view(config)


def test_images_wait_for_their_camera_info_and_its_absence_is_said():
    camera = camera_topics()
    camera.send("image", picture_message())
    assert camera.taken == []
    assert "no camera_info" in camera.topics.missing()
    camera.send("camera_info", lens_message())
    assert len(camera.taken) == 1
    assert camera.topics.missing() is None
    bad = lens_message()
    bad.distortion_model, bad.d = "omnidirectional", [0.1] * 4
    camera.send("camera_info", bad)
    camera.send("image", picture_message(9))
    assert camera.refused.counts["start"] == 1
    assert "omnidirectional" in camera.refused.last["start"]
    assert len(camera.taken) == 1


def test_stamps_wait_for_a_clock_that_was_put_back_a_little_and_follow_one_that_went_far_back():
    now, said, stood = [10 * NANO], [], []
    clock = SimpleNamespace(
        now=lambda: SimpleNamespace(nanoseconds=now[0]), create_jump_callback=lambda threshold, post_callback: None
    )
    logger = SimpleNamespace(warning=said.append)
    time = NodeTime(SimpleNamespace(get_clock=lambda: clock, get_logger=lambda: logger), lambda: stood.append(now[0]))
    stamps = []
    for then in (10.0, 10.5, 10.2, 10.6, 3.0, 3.1):
        now[0] = round(then * NANO)
        stamps.append(time.stamp() / NANO)
    assert stamps == [10.0, 10.5, 10.5, 10.6, 3.0, 3.1]
    assert stood == [3 * NANO]
    assert len(said) == 1
