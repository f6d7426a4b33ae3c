"""One-line errors for failures of the machine: a full disk, a killed loader process, a lost rank."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chordate.errors import ChordateError, MachineError
from chordate.text import one_line

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Libraries that read or write files for this package.
LIBRARIES = ("torch", "PIL", "cv2", "numpy", "mmengine", "matplotlib", "tensorboard", "safetensors", "tifffile", "rich")
# torch's messages about a loader process that has ended, and about a rank that no longer answers (gloo and NCCL).
ENDED_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed by signal: ([\w ]+)|exited unex)")
LOST_RANK = re.compile(
    r"gloo/transport|NCCL.*(?:remote process|timeout)|Connection (?:closed|reset) by peer", re.DOTALL
)
SHORT = re.compile(r"Connection (?:closed|reset) by peer|remote process exited|timeout", re.IGNORECASE)


@contextmanager
def explain_failures(remedy: Callable[[], str] = str) -> Iterator[None]:
    """Context manager that raises failures of the machine as a MachineError; `remedy()` returns the end of its message.

    Other errors are not changed.
    """
    try:
        yield
    except ChordateError:
        raise
    except Exception as error:  # torch reports a worker's end by an error in whatever code runs at that moment
        reason = describe_failure(error)
        if reason is None:
            raise
        raise MachineError("; ".join(filter(None, (reason, remedy())))) from error


def describe_failure(error: BaseException) -> str | None:
    """Describe the failure and its usual cause; None if the error is not a failure of the machine."""
    cause = disk_error(error)
    if cause is not None and (cause.errno in FULL_DISK or is_own_operation(cause)):
        where = f"{cause.filename}: " if cause.filename else ""
        return f"{where}{cause.strerror or cause}{'; free some space' if cause.errno in FULL_DISK else ''}"
    # torch may raise "exited unexpectedly" after the error that names the signal.
    ended = [match for cause in causes(error) if (match := ENDED_WORKER.match(str(cause)))]
    if ended:
        name = (ended[-1][1] or "").strip()
        how = f"was killed (signal: {name})" if name else "ended unexpectedly"
        if name == "Bus error":
            return f"a loader process {how}, because /dev/shm is full; enlarge it, or set workers=0"
        return f"a loader process {how}, most often because memory ran out; set fewer workers or a smaller batch_size"
    text = one_line(error)
    if isinstance(error, RuntimeError) and LOST_RANK.search(text):
        short = SHORT.search(text)
        return f"the connection to another rank is lost ({short[0] if short else text[:100]}); see that rank's output"
    return None


def disk_error(error: BaseException) -> OSError | None:
    """Find the OSError behind `error`; None if there is none.

    The result is `error` itself if it is an OSError that names a file, otherwise the first OSError about a full disk
    among `error` and its causes: torch raises its own RuntimeError after the OSError of a full disk.
    """
    if isinstance(error, OSError) and error.filename is not None:
        return error
    full = (cause for cause in causes(error) if isinstance(cause, OSError) and cause.errno in FULL_DISK)
    return next(full, None)


def is_own_operation(error: BaseException) -> bool:
    """Whether an error comes from this package's own code, or from its calls of the standard library and `LIBRARIES`,
    and not from a user's callback, transform or other component, whose code may have a bug."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in sys.stdlib_module_names and package not in LIBRARIES:
            return package == __name__.partition(".")[0]
    return False


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, the error that it was raised after, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
