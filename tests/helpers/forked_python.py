"""Python code in processes of `clean_processes`: a start takes a moment, not five seconds."""

from __future__ import annotations

import atexit
import gc
import os
import runpy
import site
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from clean_processes import clean_processes


class ForkedProcess:
    """A process that runs `-c CODE ARGUMENTS` in a session of its own, with what `subprocess.Popen` offers of it."""

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: str) -> None:
        context = clean_processes()
        reading, writing = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(arguments, environment, folder, writing))
        self._process.start()
        writing.close()
        self.stdout = os.fdopen(os.dup(reading.fileno()))
        reading.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Exit status.

        Raises:
            subprocess.TimeoutExpired: it did not end.
        """
        self._process.join(timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended and nobody was told yet
                os.kill(self.pid, number)


def _run(arguments: list[str], environment: dict[str, str], folder: str, output: Connection) -> NoReturn:
    """Run the code, and end when its threads and exit handlers are done."""
    gc.freeze()  # a collection would copy all pages of torch
    os.setsid()
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    output.close()
    sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for path in filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)):
        site.addsitedir(path)
    sys.argv = ["-c", *arguments[2:]]
    file = Path.cwd() / f"forked-{os.getpid()}.py"  # processes that it starts look for it from elsewhere
    file.write_text(arguments[1])
    status = 1
    try:
        runpy.run_path(str(file), run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        if (error := sys.exc_info()[1]) is not None:
            traceback.print_exception(error)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(status)  # the end of the interpreter would, too, but looks through all of torch
