"""Logs of a run: `log.csv`, and TensorBoard events where that package is installed."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

LOG = "log.csv"
EVENTS = "tensorboard"


class RunLog:
    """Appends rows to the log of a run.

    A run that was killed goes on from its last checkpoint. Rows that were written after it are then cut off, because
    the same steps write them again: no row is lost or doubled.
    """

    def __init__(self, folder: Path, size: int, step: int) -> None:
        """Go on with a log.

        Args:
            folder: of the run.
            size: bytes of `log.csv` at the checkpoint that the run goes on from; 0 begins anew.
            step: optimiser steps done at that checkpoint.
        """
        self.path = folder / LOG
        if size and self.size >= size:
            os.truncate(self.path, size)
        else:
            self.path.unlink(missing_ok=True)
        self._events: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            # Its own thread writes; waiting for it takes half a second a row.
            self._events = SummaryWriter(str(folder / EVENTS), purge_step=step + 1, flush_secs=10)

    @property
    def size(self) -> int:
        """Bytes of `log.csv`."""
        return self.path.stat().st_size if self.path.exists() else 0

    def write(self, row: Mapping[str, float]) -> None:
        """Add a row; it must have `step`, and the columns of the first row."""
        text = StringIO()
        writer = csv.writer(text)
        if not self.size:
            writer.writerow(row)
        writer.writerow([f"{v:.9g}" for v in row.values()])
        with self.path.open("a", newline="") as file:
            file.write(text.getvalue())
        if self._events is not None:
            for name, value in row.items():
                if name != "step":
                    self._events.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        """End the log."""
        if self._events is not None:
            self._events.close()
