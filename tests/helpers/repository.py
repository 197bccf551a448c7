"""Where the repository is and which files belong to it."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mirage_env", "policies", "ros_bridge")


@cache
def repository_files() -> tuple[str, ...]:
    """Paths of all files that git tracks or would track, relative to `ROOT`; everything but caches without git."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        paths = [path for path in listing.stdout.split("\0") if (ROOT / path).is_file()]
    else:
        paths = []
        for folder, folders, names in os.walk(ROOT):
            folders[:] = [f for f in folders if f == ".ci" or not (f.startswith((".", "__")) or "egg-info" in f)]
            paths += [str((Path(folder) / name).relative_to(ROOT)) for name in names]
    return tuple(sorted(paths))


def copy_repository(target: Path) -> Path:
    """Copy the repository's files to `target`, so that a build leaves nothing behind in the original."""
    for path in repository_files():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target / path)
    return target
