"""Clean processes that start in a moment: forked from one that has imported the libraries, and run nothing else."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

PRELOADED = [
    "pytest",
    "mirage_env.store.cache_writer",
    "mirage_env.store.world_io",
    "mirage_env.world_model",
    "mirage_env.models.world_model_loader",
    "mirage_env.rooms",
    "mirage_env.training.loop",
    "mirage_env.datasets.latent_clips",
    "policies.training.train",
    "ros_bridge.nodes.world_node",
    "ros_bridge.nodes.policy_node",
    "torch._dynamo",
    "torch.distributed.fsdp",
]
"""What all of them take seconds to import; a process of pytest has one such server, so all its tests share the list."""


def clean_processes() -> ForkServerContext:
    """Where to start them: `multiprocessing`'s forkserver."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
