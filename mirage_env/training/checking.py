"""`mirage train check`: whether every clip of a data set can be read, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from mirage_env.datasets.clip_store import clip_names, read_clip, read_imagined, read_info
from mirage_env.datasets.zip_arrays import ENDING
from mirage_env.errors import ClipError


@dataclass(frozen=True)
class Check:
    """Read a whole data set.

    Attributes:
        data: the data set, NAME.zarr.
    """

    data: tyro.conf.Positional[Path]


def check(options: Check) -> str:
    """Read every clip; tells what is there.

    Raises:
        DatasetError: there is no data set.
        ClipError: clips are damaged; the message names all of them.
    """
    path, info = options.data, read_info(options.data)
    names = clip_names(path)
    imagined = {file.name.removesuffix(ENDING) for file in (path / "imagined").glob(f"[!.]*{ENDING}")}
    problems, prompts, frames, kept = [], set(), 0, []
    for name in tqdm(names, desc="check clips", unit="clip"):
        try:
            clip = read_clip(path, name, info)
            if name in imagined:
                read_imagined(path, name, clip)
        except ClipError as error:
            problems.append(str(error))
            continue
        prompts.add(clip.text)
        frames += len(clip)
        kept.append(float(clip.keep[:, 1].mean()))
    if problems:
        raise ClipError(f"{len(problems)} of {len(names)} clips are damaged:\n" + "\n".join(problems))
    files = [file for file in path.rglob("*") if file.is_file()]
    (H, W), (h, w) = info.image_size, info.latent_size
    share = f", {100.0 * np.mean(kept):.0f} % of the cells may be remembered" if kept else ""
    return (
        f"{path}: {len(names)} clips, {frames} key frames{share}\n"
        f"images {H} x {W}, latents {info.latent_channels} x {h} x {w}, {info.temporal_stride} frames per latent, "
        f"windows of {info.window}\n{len(prompts)} prompts, {len(imagined)} clips imagined, "
        f"{sum(file.stat().st_size for file in files) / 2**20:.1f} MiB in {len(files)} files"
    )
