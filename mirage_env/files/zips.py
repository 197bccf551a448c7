"""Zip files of strangers: what their members are called and how large they are, and reading one within a bound."""

from __future__ import annotations

import struct
import zipfile
import zlib

DAMAGES = (
    zipfile.BadZipFile,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What the zip library raises at damaged files."""


def member_sizes(archive: zipfile.ZipFile) -> dict[str, int]:
    """Bytes of every member by name, as the zip says; folders are left out."""
    return {info.filename: info.file_size for info in archive.infolist() if not info.filename.endswith("/")}


def read_member(archive: zipfile.ZipFile, name: str, most_bytes: int) -> bytes:
    """Read a member; no more than `most_bytes` is ever unpacked, whatever the zip says.

    Raises:
        KeyError: there is none of that name.
        ValueError: it is damaged, or larger.
    """
    archive.getinfo(name)
    try:
        with archive.open(name) as member:
            data = member.read(most_bytes + 1)
    except DAMAGES as error:
        raise ValueError(f"{name}: {error}") from error
    if len(data) > most_bytes:
        raise ValueError(f"{name} has more than the {most_bytes} bytes that it may have")
    return data
