"""The Ray cluster that replicas and rollouts run on."""

from __future__ import annotations

import os
from typing import Any

from mirage_env.errors import InvalidOptionError, MissingPackageError


def connect_to_ray() -> Any:
    """The module `ray`, connected: to the cluster of RAY_ADDRESS or of this machine, or to one that begins here.

    Raises:
        MissingPackageError: it is not installed.
        InvalidOptionError: there is no cluster at RAY_ADDRESS.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError(f"{error}; pip install 'mirage-env[scale]'") from error
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, include_dashboard=False)
        except (ConnectionError, ValueError) as error:
            raise InvalidOptionError(f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')!r}: {error}") from error
    return ray
