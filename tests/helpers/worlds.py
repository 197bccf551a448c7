"""A tiny world model whose memory fills: every cell passes the filters, and walks through it."""

from dataclasses import replace

import numpy as np
import torch
from stand_ins import Labels
from tiny import tiny_world_model

from mirage_env.camera import Camera
from mirage_env.config.world import FilterConfig
from mirage_env.interfaces import MOVER, STATIC
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState

KEEP_ALL = FilterConfig(edge_jump=1e6, edge_share=1.0, dynamic_share=1.0)


def open_minded_model(seed: int = 0, max_bytes: int = 0, merge_tokens: int = 8192, moves: bool = False) -> WorldModel:
    """`tiny_world_model` without filters; random networks would keep nothing. `moves`: the middle of views does."""
    model = tiny_world_model(seed)
    if moves:
        label = torch.full(model.config.image_size, STATIC)
        label[8:24, 8:24] = MOVER
        model = replace(model, segmenter=Labels(label))
    memory = replace(model.config.memory, max_bytes=max_bytes, merge_tokens=merge_tokens)
    return replace(model, config=replace(model.config, filters=KEEP_ALL, memory=memory))


def start(model: WorldModel, seed: int = 0) -> tuple[Chunk, WorldState]:
    size = model.config.image_size
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return model.start(image, depth=np.full(size, 2.0, np.float32), seed=seed)


def cameras_from(camera: Camera, model: WorldModel, yaw: float = 0.2) -> list[Camera]:
    """The cameras of one chunk: forward and turning."""
    T_cam_next = pose_from_rotation_vector([0.02, 0.0, 0.05], [0.0, yaw, 0.0])
    cameras = []
    for _ in range(model.config.frames_per_chunk):
        camera = camera.moved(T_cam_next)
        cameras.append(camera)
    return cameras


def walk(model: WorldModel, steps: int, seed: int = 0) -> list[tuple[Chunk, WorldState]]:
    """What every step showed and left, the start view first."""
    walked = [start(model, seed)]
    for _ in range(steps):
        state = walked[-1][1]
        walked.append(model.step(state, cameras_from(state.camera, model)))
    return walked
