"""Locks the work dir of a run, so that two trainings cannot write to one folder."""

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

LOCK = "lock"  # the file; it stays in the folder, since deleting it could unlock another training's file
logger = logging.getLogger("chordate")
_held: set[int] = set()  # descriptors of the locks of this process


def _release_in_child() -> None:
    """Close the locks in a forked loader process, which may outlive a killed training."""
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


if fcntl is not None:
    os.register_at_fork(after_in_child=_release_in_child)


@contextmanager
def locked(work_dir: Path) -> Iterator[None]:
    """Context manager that holds the lock of a work dir (`flock`). The kernel releases the lock of a killed process.

    Raises:
        ConfigError: another training holds the lock; raised on all ranks.
    """
    descriptor, holder = _acquire(work_dir / LOCK) if is_main_process() and fcntl is not None else (None, None)
    try:
        if holder := broadcast_object(holder):
            raise ConfigError(f"{work_dir}: {holder} is training there; choose another work dir, or wait for its end")
        yield
    finally:
        if descriptor is not None:
            _held.discard(descriptor)
            os.close(descriptor)


def _acquire(path: Path) -> tuple[int | None, str | None]:
    """Lock a file. Returns its descriptor (None if locks are not supported), and who holds the lock instead of us."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)  # a link could lead to any file
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace").strip()
        os.close(descriptor)
        return None, holder or "another process"
    except OSError as error:
        logger.info(f"{path}: this file system has no locks ({error.strerror}); start no second training there")
    _held.add(descriptor)
    with contextlib.suppress(OSError):  # the text is only for messages, and the disk may be full
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor, None
