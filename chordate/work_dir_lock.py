"""Locks the work dir of a run, so that two training runs cannot write to one folder."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chordate.distributed import broadcast_object, is_main_process
from chordate.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"  # the file
logger = logging.getLogger("chordate")
_held: set[int] = set()  # descriptors of the locks of this process


def _release_in_child() -> None:
    """Close the locks in a forked process: a loader worker may outlive a killed run, and would keep the lock."""
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


if fcntl is not None:
    os.register_at_fork(after_in_child=_release_in_child)


@contextmanager
def locked(work_dir: Path) -> Iterator[None]:
    """Context manager that locks a work dir, by `flock` on its file `lock`. The lock is not reentrant.

    Only the main process locks; on Windows, nothing is locked. The file is removed at the end. If the process is
    killed, the kernel releases the lock, but the file stays.

    Raises:
        ConfigError: another training run holds the lock; raised on all ranks.
    """
    descriptor, holder = _acquire(work_dir / LOCK) if is_main_process() and fcntl is not None else (None, None)
    try:
        if holder := broadcast_object(holder):
            raise ConfigError(f"{work_dir}: {holder} is training there; choose another work dir, or wait until it ends")
        yield
    finally:
        if descriptor is not None:
            (work_dir / LOCK).unlink(missing_ok=True)  # before unlocking: later, the file may be another run's
            _held.discard(descriptor)
            os.close(descriptor)


def _acquire(path: Path) -> tuple[int | None, str | None]:
    """Lock a file. Returns its descriptor and None; or None and a description of the process that holds the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)  # a link could lead to any file
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace").strip()
        os.close(descriptor)
        return None, holder or "another process"
    except OSError as error:
        logger.info(
            f"{path}: the filesystem does not support locks ({error.strerror}); do not start a second run in this "
            "work dir"
        )
    if not _is_same_file(descriptor, path):  # another run removed the file before it was locked
        os.close(descriptor)
        return _acquire(path)
    _held.add(descriptor)
    with contextlib.suppress(OSError):  # the text is only for messages, and the disk may be full
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor, None


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
