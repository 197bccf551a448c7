"""The Fast DDS profile that makes room for large images, taken by a node unless its user has chosen another."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

PROFILE = Path(__file__).parent / "config/fastdds.xml"
"""The shipped profile: shared memory of 32 MiB instead of 512 KiB, and socket buffers of 8 MiB."""
NAMED = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Variables that name a profile: that of Fast DDS 3 (Kilted and later), and that of the releases before."""
CHOSEN = (*NAMED, "FASTDDS_BUILTIN_TRANSPORTS")
"""Variables by which a user chooses transports."""
FILES = ("DEFAULT_FASTDDS_PROFILES.xml", "DEFAULT_FASTRTPS_PROFILES.xml")
"""Profiles that Fast DDS reads from the folder it starts in."""
FORMER = ("humble", "iron", "jazzy")
"""ROS releases with Fast DDS 2."""


def make_room(environment: MutableMapping[str, str] = os.environ, folder: Path = Path()) -> bool:
    """Name the shipped profile in the environment, before Fast DDS reads it; returns whether that was so.

    A raw image larger than a publisher's shared memory is lost as often as not, and nothing says so. What the user has
    chosen stays: a variable of `CHOSEN`, or a file of `FILES`.

    Args:
        environment: of the process.
        folder: the one that it runs in.
    """
    if any(environment.get(name) for name in CHOSEN) or any((folder / name).is_file() for name in FILES):
        return False
    environment[NAMED[environment.get("ROS_DISTRO") in FORMER]] = str(PROFILE)
    return True
