"""Load the model and make the player that the parameters of the world node ask for."""

from __future__ import annotations

from collections.abc import Callable

from ros_bridge.inputs.start_views import start_view
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer
from ros_bridge.sensing.camera_mount import CameraMount


def world_player(o: WorldParameters, clock: Callable[[], float], resume: bool) -> WorldPlayer:
    """A player that is not started.

    Args:
        o: the parameters.
        clock: seconds.
        resume: go on from the cache at `store`, if there is one.

    Raises:
        MirageError: no such model, start image or store; the subclass says which.
    """
    store = o.store_folder
    import torch

    from mirage_env.models.world_model_loader import load_world_model  # brings in diffusers and transformers

    if o.threads:
        torch.set_num_threads(o.threads)
    model = load_world_model(o.model, o.device, **o.full_size)
    return WorldPlayer(
        model,
        start_view(model.config, o),
        seed=o.seed,
        store=store,
        resume=resume,
        frames=o.store_frames,
        limits=o.limits,
        rate=o.rate or None,
        clock=clock,
        mount_of=lambda camera: CameraMount.above_floor(camera.T_world_cam, o.planar),
    )
