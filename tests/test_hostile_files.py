"""A file changed at random is read or refused with one of our errors, quickly, and nothing beside it changes.

A bounded, seeded run; `benchmarks/hostile_files.py` does the same thousands of times, in processes with limits.
"""

import contextlib
import random
import time

import pytest
from hostile import FOUND, Entry, entries, renew, spoil, suffix_of

from mirage_env.errors import MirageError

ENTRIES = {entry.name: entry for entry in entries()}
TIMES = {
    **dict.fromkeys(("cache folder", "signed marker", "signed root", "signed numbers", "cache zip"), 12),
    **dict.fromkeys(("bag, mcap", "bag, sqlite", "robot.bag", "video with poses", "furniture"), 10),
}
"""Of the entries that take long."""


@pytest.mark.parametrize("name", ENTRIES)
def test_changed_file_is_read_or_refused(tmp_path, name):
    entry: Entry = ENTRIES[name]
    rng = random.Random(f"seed {name}")
    path = tmp_path / f"file{suffix_of(entry)}"
    (tmp_path / "thesis.txt").write_text("years of work")
    sound = tmp_path / "sound"
    entry.make(path)
    path.rename(sound)
    renew(path, sound)
    entry.open(path)  # a sound one is read
    beside = {p.name for p in tmp_path.iterdir()}
    for source in (*map(random.Random, FOUND.get(name, ())), *[rng] * TIMES.get(name, 25)):
        renew(path, sound)
        spoil(entry, path, source)
        began = time.process_time()
        with contextlib.suppress(MirageError):  # any other error is a fault
            entry.open(path)
        assert time.process_time() - began < 5.0
        assert {p.name for p in tmp_path.iterdir()} == beside
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
