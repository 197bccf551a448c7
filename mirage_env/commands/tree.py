"""The tree of `mirage` commands: names, summaries, and where options and functions are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Command:
    """One command: a group of others, or options and the function that takes them."""

    summary: str
    """Its line in the help; the first line of the options' docstring."""
    options: str = ""
    """module:class of its options, or module:function that gives the class for the words of a call."""
    run: str = ""
    """module:function that takes the options and returns the exit code."""
    parts: Mapping[str, Command] = field(default_factory=dict)
    """Commands of a group by name."""
    default: str = ""
    """The part of a group that is meant where none is named."""
    named_in_options: bool = False
    """Its name is the first of its options."""


RUN = "mirage_env.commands.run"
TRAIN = "mirage_env.commands.train"


def _evaluation(summary: str, options: str, run: str) -> Command:
    return Command(summary, f"mirage_env.evaluation.{options}", f"mirage_env.commands.evaluate:{run}")


def _model(summary: str, options: str, run: str) -> Command:
    return Command(summary, f"mirage_env.commands.model:{options}", f"mirage_env.commands.model:{run}")


def _stage(summary: str) -> Command:
    return Command(summary, f"{TRAIN}:stage_options", f"{TRAIN}:run_stage", named_in_options=True)


def _dataset(summary: str, options: str, run: str) -> Command:
    return Command(summary, f"mirage_env.training.{options}", f"{TRAIN}:{run}")


def _ros(summary: str, options: str) -> Command:
    return Command(summary, f"ros_bridge.command_options:{options}", "ros_bridge.command:run")


EVAL = {
    "loop": _evaluation("Walk away, come back, and measure whether the world is the same.", "loop:LoopConfig", "loop"),
    "parts": _evaluation(
        "Measure codec, depth and segmentation on test worlds.", "network_parts:PartsConfig", "network_parts"
    ),
    "clips": _evaluation(
        "Measure a model on clips of its own world, without the simulator.", "own_clips:ClipsEvalConfig", "own_clips"
    ),
    "speed": _evaluation(
        "Measure frames per second, the share of each part, and memory.", "speed:SpeedConfig", "speed"
    ),
    "crispness": _evaluation(
        "Measure sharpness and LPIPS by chunk, and how a world fades while the camera stands still.",
        "crispness:CrispnessConfig",
        "crispness",
    ),
    "re10k": _evaluation(
        "Measure novel views along true cameras of RealEstate10K, and the way back.", "re10k:Re10kConfig", "re10k"
    ),
    "worldscore": _evaluation(
        "Make the videos that the WorldScore toolkit scores.", "worldscore:WorldScoreConfig", "worldscore"
    ),
    "policies": Command(
        "Play the same episodes with many policies in the learned and the true world, and compare their ranks.",
        "mirage_env.commands.compare_policies:PoliciesEval",
        "mirage_env.commands.compare_policies:compare_policies",
    ),
    "cameras": _evaluation("Compare two camera paths.", "camera_errors:CamerasConfig", "cameras"),
    "export-rooms": _evaluation(
        "Write walks through the simulator in RealEstate10K's layout.", "export_rooms:ExportConfig", "export_rooms"
    ),
}
MODEL = {
    "check": _model("Report what a model is made of, without loading its weights.", "Check", "check"),
    "convert": _model("Convert published weights into control/ and lora/ inside a folder.", "Convert", "convert"),
    "embed": _model("Compute embeddings of prompts, for machines without the text encoder.", "Embed", "embed"),
}
STAGES = {
    "record": "Record walks through the rooms simulator.",
    "codec": "Train the codec on images.",
    "scene": "Train depth and segmentation.",
    "encode": "Encode the clips.",
    "refiner": "Train the refiner of readouts.",
    "base": "Train the video transformer.",
    "branch": "Train the side branch; with --model of a full-size model.",
    "imagine": "Walk through clips with the model, for training on its own latents; with --model, too.",
    "lora": "Train the LoRA with the branch; with --model of a full-size model.",
    "sharp-codec": "Train the decoder to be sharp.",
    "sharp-refiner": "Train the refiner on decoded pictures.",
    "unseen": "Train the generator to go on where the known ends.",
    "sharp-world": "Train refiner and generator in the loop they run in, on decoded pictures.",
    "sharp-detail": "Train detail head and decoder on what the loop has drawn, many steps from each picture.",
    "imagined-scene": "Train depth and segmentation on what the model imagines.",
    "export": "Write the model folder.",
}
TRAINING = {
    "all": _dataset(
        "Render or take clips, train every part on them, export a model.",
        "whole_run:TrainAll",
        "everything",
    ),
    **{name: _stage(summary) for name, summary in STAGES.items()},
    "import-re10k": _dataset(
        "Import clips in RealEstate10K's layout into a data set (docs/training.md).", "importing:ImportRe10k", "re10k"
    ),
    "import-clips": _dataset(
        "Import recorded clips of a Gymnasium environment into a data set; their depth is the truth.",
        "importing:ImportClips",
        "clips",
    ),
    "check": _dataset("Read a whole data set.", "checking:Check", "check"),
    "fsdp": Command("Print the path of the accelerate configuration for many GPUs.", f"{TRAIN}:Fsdp", f"{TRAIN}:fsdp"),
}
ROS = {
    "world": _ros("Run the world node: an imagined world as ROS 2 topics. Ctrl-C ends it.", "World"),
    "policy": _ros("Let a policy drive the world, or a robot, from the images it sends. Ctrl-C stops both.", "Drives"),
    "topics": _ros("List the topics, their types, and how many publish and subscribe.", "Topics"),
    "echo": _ros(
        "Show what arrives on a topic, until Ctrl-C: a line per second for images, the values of other messages.",
        "Echo",
    ),
    "drive": _ros("Drive with the keyboard.", "Drive"),
    "call": _ros("Call a service of the world node.", "Call"),
    "bag": _ros("Write a saved world as a rosbag2 file; needs no ROS.", "Bag"),
}
MIRAGE = Command(
    "A learned world that robots can practise in. Begin with: mirage walk --seed 7 --path loop --out walk",
    parts={
        "walk": Command(
            "Open a world from one view and walk a camera path through it.",
            "mirage_env.commands.walk:Walk",
            f"{RUN}:walk",
        ),
        "view": Command(
            "Look at a world in the browser and drive it.", "mirage_env.commands.view_options:View", f"{RUN}:view"
        ),
        "serve": Command(
            "Serve many worlds of one model over HTTP and WebSocket.",
            "mirage_env.commands.serve:Serve",
            f"{RUN}:serve",
        ),
        "play": Command(
            "Walk through a world with the keyboard: w s a d walk, i j k l look, Esc ends.",
            "mirage_env.commands.play:Play",
            f"{RUN}:play",
        ),
        "look": Command(
            "List the contents of a saved world, and draw it from above.",
            "mirage_env.commands.look:Look",
            f"{RUN}:look",
        ),
        "train-policy": Command(
            "Train a policy. Run it again, after a kill too, and it goes on from the last checkpoint.",
            "policies.training.config:TrainPolicy",
            f"{RUN}:train_policy",
        ),
        "rollout": Command(
            "Roll a policy out, many times, and record it: one file per episode in --out.",
            "policies.rollout.command:Rollout",
            f"{RUN}:rollout",
        ),
        "learn": Command(
            "Write a recording into a world: RGB-D folder, photographs, video with poses, bag, or LeRobot data set.",
            "mirage_env.commands.learn:Learn",
            "mirage_env.commands.learn:learn",
        ),
        "import": Command(
            "Cut a recording into training clips, from the sources that `mirage learn` takes.",
            "mirage_env.commands.import_clips:Import",
            "mirage_env.commands.import_clips:import_clips",
        ),
        "camera": Command(
            "Recognise a camera file of others: format, axes, units, lens, and what contradicts itself.",
            "mirage_env.commands.camera:CameraReport",
            "mirage_env.commands.camera:camera",
        ),
        "export": Command(
            "Write a saved world as a map, cloud, splat or mesh, or recorded episodes as a dataset of another format.",
            "mirage_env.commands.export:Export",
            f"{RUN}:export",
        ),
        "ros": Command("Run a world as ROS 2 topics, drive it and look at it.", parts=ROS, default="world"),
        "model": Command("Check a checkpoint, convert published weights, embed prompts.", parts=MODEL),
        "eval": Command("Measure how good the imagined worlds are.", parts=EVAL),
        "train": Command("Train a world model, in stages.", parts=TRAINING),
        "doctor": Command(
            "Check what Mirage needs on this machine, and say what to do where something is missing.",
            "mirage_env.doctor:Doctor",
            f"{RUN}:doctor",
        ),
    },
)
"""All of them."""
