"""Locks between processes on one machine. The kernel frees them when their holder dies."""

import fcntl
import os
import time
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.02


class FileLock:
    """A lock on a file, exclusive or shared. Two instances exclude each other, even in one process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self, *, shared: bool = False, timeout_s: float = 0) -> bool:
        """Take the lock within ``timeout_s`` seconds (0: at once or not at all). Raises ``OSError``."""
        deadline = time.monotonic() + timeout_s
        while not self._try(fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def remove(self) -> None:
        """Remove the file of a lock that is held: whoever waits for it starts anew."""
        if self._fd is None:
            raise RuntimeError("only the holder may remove a lock")
        self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _try(self, mode: int) -> bool:
        if self._fd is not None:
            raise RuntimeError("the lock is held already")
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the folder was removed just now
            return False
        try:
            fcntl.flock(fd, mode | fcntl.LOCK_NB)
            # The last holder may have removed the folder while we waited: a lock on a nameless file guards nothing.
            mine, named = os.fstat(fd), self._path.stat()
            held = (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino)
        except (BlockingIOError, FileNotFoundError):
            held = False
        except BaseException:
            os.close(fd)
            raise
        if held:
            self._fd = fd
        else:
            os.close(fd)
        return held
