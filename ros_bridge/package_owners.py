"""Check that the import names of this project have one owner: in an overlay another package of a name hides ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions

from mirage_env.errors import InvalidOptionError

NAMES = ("mirage_env", "policies", "ros_bridge")
OWNER = "mirage-env"


def check_owners(distributions: Mapping[str, Sequence[str]] | None = None) -> None:
    """Check who owns the import names.

    Args:
        distributions: owners by import name; those of this environment if not given.

    Raises:
        InvalidOptionError: a name with another owner, which one of the two overwrites or hides.
    """
    found = packages_distributions() if distributions is None else distributions
    for name in NAMES:
        others = sorted({owner for owner in found.get(name, ()) if owner.replace("_", "-").lower() != OWNER})
        if others:
            raise InvalidOptionError(
                f"the package {name} is also installed by {', '.join(others)}; one hides the other. Leave it out of "
                f"this workspace or environment (pip uninstall {others[0]}, or a colcon workspace of its own), "
                f"and install {OWNER} again"
            )
