"""Errors of the system come with what to do about them."""

import errno
import os

import pytest

from mirage_env import cli
from mirage_env.cli import main
from mirage_env.commands.os_errors import has_compiled
from mirage_env.errors import CacheBusyError, StoreError
from mirage_env.files.system_errors import ADVICE, message_of, system_errors_as


@pytest.mark.parametrize("number", sorted(ADVICE))
def test_advice_names_the_place_and_what_to_do(number):
    message = message_of(OSError(number, os.strerror(number), "some/place"))
    assert message.startswith("some/place: ")
    assert ";" in message
    assert message_of(OSError(number, "said")).startswith("said: ")


def test_other_errors_are_told_as_they_are():
    assert message_of(OSError(errno.EXDEV, "another disk", "a")) == str(OSError(errno.EXDEV, "another disk", "a"))
    assert message_of(OSError("ffmpeg could not write a.mp4")) == "ffmpeg could not write a.mp4"


def test_command_says_what_to_do_about_a_place_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    for place, says in (("file", "give another name for the folder"), ("file/below", "not a folder; check the path")):
        assert main(["walk", "--seed", "1", "--chunks", "1", "--out", place]) == 2
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("mirage walk: ")
        assert says in message


def test_first_start_is_announced_until_kernels_are_there(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert not has_compiled(tmp_path)
    (tmp_path / "rooms" / "__pycache__").mkdir(parents=True)
    (tmp_path / "rooms" / "__pycache__" / "raycast.nbi").touch()
    assert has_compiled(tmp_path)
    monkeypatch.setattr(cli, "has_compiled", lambda: False)
    assert main(["walk", "--seed", "-1", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("the first start compiles")


def test_system_errors_become_ours_and_ours_stay():
    says = r"world\.zarr: No space left on device: its disk is full; make room"
    with pytest.raises(StoreError, match=says), system_errors_as(StoreError, "world.zarr"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b")
    with pytest.raises(CacheBusyError), system_errors_as(StoreError, "world.zarr"):
        raise CacheBusyError("busy")
