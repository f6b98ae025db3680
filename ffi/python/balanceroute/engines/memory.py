"""What the traffic has taught, across restarts of an engine: a file that is read at the start, and written
now and then and at the end.

What is in it is the router's (:meth:`balanceroute.Router.learned`): how long prompts and answers are, and
when requests end. Without it a router begins with nothing and knows most of it when as many requests have
ended as there are slots. Nothing here waits for a file but the start and the end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import time
import weakref

import balanceroute

from .settings import say

# How often it is written, in seconds.
_EVERY = 60.0
# A file that is longer, in bytes, is none of ours.
_MOST = 1 << 20
# How each that is begins, of whatever version.
_HEAD = b"brlearn"


class Memory:
    """Of one router. `writes`: of several front ends one writes, and all read."""

    def __init__(self, path: str, router: balanceroute.Router, writes: bool, log: logging.Logger) -> None:
        self._path = path
        self._router = router
        self._log = log
        self._written_at = time.monotonic()
        self._writing: threading.Thread | None = None
        self._failed = False
        self.recalled = self._recall()
        """Whether the file had something to go on from."""
        self._writes = writes and not self._failed
        self._last = weakref.finalize(self, _write_at_end, path, router) if self._writes else None
        if self._writes:
            # Now, so that a file that cannot be written is named at the start.
            self._begin_to_write()

    @classmethod
    def of(
        cls, path: str | None, router: balanceroute.Router, writes: bool, log: logging.Logger
    ) -> Memory | None:
        """None where no file is named."""
        return None if path is None else cls(path, router, writes, log)

    def in_words(self) -> str:
        """What it is for, for the line at the start."""
        if self.recalled:
            return f"goes on from what {self._path} has learned"
        return f"keeps what it learns in {self._path}" if self._writes else "nothing learned yet"

    def keep(self) -> None:
        """Writes it where that is due, without waiting for it."""
        if self._writes and time.monotonic() - self._written_at >= _EVERY:
            self._begin_to_write()

    def close(self) -> None:
        """Writes it for the last time."""
        if self._last is not None:
            self._last()

    def _recall(self) -> bool:
        try:
            if not os.path.exists(self._path):
                return False
            if not os.path.isfile(self._path) or os.path.getsize(self._path) > _MOST:
                raise ValueError("it is no file of ours")
            with open(self._path, "rb") as file:
                learned = file.read()
            if not learned:
                return False
            if not learned.startswith(_HEAD):
                raise ValueError("it is no file of ours")
        except (OSError, ValueError) as error:
            # Somebody else's, perhaps: it stays as it is.
            self._failed = True
            self._complain("nothing is learned from, or written to", error)
            return False
        try:
            self._router.learn(learned)
        except balanceroute.BalanceRouteError as error:
            self._complain("nothing is learned from", error)
            return False
        return True

    def _begin_to_write(self) -> None:
        self._written_at = time.monotonic()
        if self._writing is None or not self._writing.is_alive():
            # By a thread, which a file system that hangs may hang.
            writing = threading.Thread(target=self._write, args=(self._router.learned(),), daemon=True)
            try:
                writing.start()
            except RuntimeError as error:
                self._cannot_write(error)
            else:
                self._writing = writing

    def _write(self, learned: bytes) -> None:
        try:
            _replace(self._path, learned)
        except OSError as error:
            self._cannot_write(error)
        else:
            self._failed = False

    def _cannot_write(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            self._complain("what is learned cannot be written to", error)

    def _complain(self, what: str, error: Exception) -> None:
        say(
            self._log,
            logging.WARNING,
            "balanceroute: %s %s (BALANCEROUTE_LEARNED_FILE): %s",
            what,
            self._path,
            error,
        )


def _replace(path: str, content: bytes) -> None:
    """All of it or nothing."""
    folder, name = os.path.split(os.path.abspath(path))
    handle, beside = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _write_at_end(path: str, router: balanceroute.Router) -> None:
    # What goes wrong now was said before, and nobody is left to be told.
    with contextlib.suppress(OSError, balanceroute.BalanceRouteError):
        _replace(path, router.learned())
