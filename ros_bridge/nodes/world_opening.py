"""Load the model, or attach to that of a server, and make the player that the parameters of the world node ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mirage_env.errors import InvalidOptionError, MissingPackageError
from mirage_env.world_model import WorldModel
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
    model = _loaded(o) if not o.server else _served(o)
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


def let_go(model: WorldModel) -> None:
    """Close what a model has on its server, if it is one of a server."""
    if callable(close := getattr(model, "close", None)):
        close()


def _loaded(o: WorldParameters) -> WorldModel:
    import torch

    from mirage_env.models.world_model_loader import load_world_model  # brings in diffusers and transformers

    if o.threads:
        torch.set_num_threads(o.threads)
    return load_world_model(o.model, o.device, **o.full_size)


def _served(o: WorldParameters) -> WorldModel:
    try:
        from mirage_env.serving import RemoteWorldModel, read_tokens
    except ImportError as error:
        raise MissingPackageError(f"{error}; a server needs: pip install 'mirage-env[serve]'") from error
    try:
        token = read_tokens(Path(o.token_file))[0] if o.token_file else None
    except InvalidOptionError as error:
        raise InvalidOptionError(f"token_file: {error}") from error
    return RemoteWorldModel.connect(o.server, token, name="ros")
