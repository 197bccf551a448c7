"""Members of zips: sizes before contents, and no more unpacked than a bound."""

import zipfile

import pytest

from mirage_env.files.zips import member_sizes, read_member


@pytest.fixture
def archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("folder/", "")
        made.writestr("folder/a", bytes(2**20))
    with zipfile.ZipFile(tmp_path / "a.zip") as opened:
        yield opened


def test_members_have_their_sizes_and_folders_none(archive):
    assert member_sizes(archive) == {"folder/a": 2**20}
    assert read_member(archive, "folder/a", 2**20) == bytes(2**20)


def test_no_more_is_unpacked_than_a_member_may_have(archive, monkeypatch):
    asked, read = [], zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda member, n=-1: asked.append(n) or read(member, n))
    with pytest.raises(ValueError, match="more than the 1000 bytes"):
        read_member(archive, "folder/a", 1000)
    assert asked == [1001]


def test_missing_and_damaged_members_are_told_apart(archive):
    with pytest.raises(KeyError):
        read_member(archive, "folder/b", 10)
    archive.getinfo("folder/a").CRC += 1
    with pytest.raises(ValueError, match="CRC"):
        read_member(archive, "folder/a", 2**20)
