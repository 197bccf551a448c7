"""Progress of long commands: a bar on a terminal, a line per tenth in a log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

ItemT = TypeVar("ItemT")
logger = logging.getLogger(__name__)


class Progress:
    """Count up to `total`; use it as a context.

    Args:
        total: number of units.
        what: name of the work.
        unit: name of one unit.
        shown: whether anything is shown at all.
    """

    def __init__(self, total: int, what: str, unit: str, shown: bool = True) -> None:
        self.total, self.what, self.unit, self.done = total, what, unit, 0
        self.logs = shown and not sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=what, unit=unit, disable=self.logs or not shown, dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, count: int = 1, note: str = "") -> None:
        """Count so many units more."""
        before, self.done = self.done, self.done + count
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(count)
        if self.logs and self.total and 10 * before // self.total < 10 * self.done // self.total:
            share = 100 * self.done // self.total
            logger.info("%s: %d %%, %d of %d %ss", self.what, share, self.done, self.total, self.unit)


def progress(items: Iterable[ItemT], total: int, what: str, unit: str, shown: bool = True) -> Iterator[ItemT]:
    """Yield the items and show how many are done."""
    with Progress(total, what, unit, shown) as bar:
        for item in items:
            yield item
            bar.update()
