"""The checkpoint files of a run: writes them atomically, finds the newest, deletes old ones.

A file is written under a temporary name, flushed to the disk, and renamed. Then its name is written to
`last_checkpoint`, and only then is an older checkpoint deleted. A process killed at any moment leaves a readable
checkpoint.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from chordate.errors import CheckpointError
from chordate.failures import disk_error
from chordate.text import file_stem, printable
from chordate.weights.checkpoint_schema import checkpoint_meta
from chordate.weights.checkpoint_sources import read_state
from chordate.weights.pickle_files import read_pickle_file

logger = logging.getLogger("chordate")

POINTER = "last_checkpoint"
NAME = re.compile(r"(epoch|iteration)_\d+\.pt", re.ASCII)  # the names that `save` writes; it deletes no other files
WRITTEN = (
    "epoch_*.pt",
    "iteration_*.pt",
    "best_*.pt",
)  # only these are moved or deleted; other files belong to the user


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Create or replace `path` atomically; `write` is called with the open file.

    Raises:
        OSError: writing failed; `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # fsync the directory too: a rename changes its entries
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class CheckpointFolder:
    """The checkpoints in one folder.

    Args:
        folder: the folder; created if it does not exist.
        keep: number of the newest checkpoints to keep; None keeps all. Only files of this run are deleted.

    Attributes:
        files: names of this run's checkpoints, oldest first, without the best checkpoint.
    """

    def __init__(self, folder: str | Path, keep: int | None = None):
        self.folder, self.keep = Path(folder), keep
        self.folder.mkdir(parents=True, exist_ok=True)
        self.files: list[str] = []

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write the checkpoint `name`, update `last_checkpoint`, and delete the oldest checkpoints beyond `keep`.

        Raises:
            CheckpointError: the disk is full, the folder is not writable, or `state` has a value whose type cannot be
                loaded safely. Older checkpoints are unchanged.
        """
        self.write(name, state)
        self._write(POINTER, lambda file: file.write(f"{name}\n".encode()))
        self.files = [*(file for file in self.files if file != name), name]
        while self.keep is not None and len(self.files) > self.keep:
            (self.folder / self.files.pop(0)).unlink(missing_ok=True)

    def write(self, name: str, state: Mapping[str, Any]) -> None:
        """Write the checkpoint `name` without changing `last_checkpoint` or deleting files. Raises as `save` does."""
        self._write(name, lambda file: torch.save(to_cpu(state), file))

    def _write(self, name: str, write: Callable[[BinaryIO], Any]) -> None:
        try:
            write_atomically(self.folder / name, write)
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else disk_error(error)
            if cause is None:
                raise
            last = f"; {self.files[-1]} is complete, --resume continues from it" if self.files else ""
            reason = f"{self.folder / name}: cannot be written ({cause.strerror or cause})"
            raise CheckpointError(f"{reason}{last}") from error

    def begin(self) -> Path | None:
        """Start a new run: move the checkpoints of an earlier run to a new subfolder, and empty `last_checkpoint`.

        Returns:
            The folder `earlier_<time>`; None if there were no checkpoints.

        Raises:
            CheckpointError: a file cannot be moved or written.
        """
        earlier = sorted(path for pattern in WRITTEN for path in self.folder.glob(pattern))
        if not earlier:
            return None
        # Empty `last_checkpoint` before the files are moved, so that it never names a moved file.
        self._write(POINTER, lambda file: None)
        stamp = time.strftime("%Y%m%d_%H%M%S", time.localtime(max(path.stat().st_mtime for path in earlier)))
        names = [f"earlier_{stamp}", *(f"earlier_{stamp}_{number}" for number in range(2, 1000))]
        target = next(self.folder / name for name in names if not (self.folder / name).exists())
        try:
            target.mkdir()
            for path in earlier:
                os.replace(path, target / path.name)
        except OSError as error:
            raise CheckpointError(
                f"{target}: earlier checkpoints cannot be moved there ({error.strerror or error})"
            ) from error
        return target

    def contains(self, path: str | Path) -> bool:
        """Whether a checkpoint is in this folder (after resolving links), and so belongs to the folder's run."""
        return Path(path).resolve().parent == self.folder.resolve()

    def is_last(self, path: str | Path) -> bool:
        """Whether `last_checkpoint` names this checkpoint."""
        return self.contains(path) and self.last() == Path(path).name

    def last(self) -> str | None:
        """The name in `last_checkpoint`; None if there is no such file, "" in a run without checkpoints.

        The file may be untrusted: a name that `save` does not write, such as a path, is ignored with a warning.
        """
        pointer = self.folder / POINTER
        if not pointer.is_file():
            return None
        with open(pointer, encoding="utf-8", errors="replace") as file:
            name = file.read(256).strip()
        if not name or NAME.fullmatch(name):
            return name
        logger.warning(f"{pointer} names {printable(name)} instead of epoch_<n>.pt or iteration_<n>.pt; it is ignored")
        return None

    def adopt(self, files: Sequence[str], best: dict[str, Any] | None) -> dict[str, Any] | None:
        """Restore the list of checkpoints on resume: set `self.files` to the names in `files` that are in this folder.

        `files` is read from a checkpoint, which may be untrusted, and `save` deletes the oldest files in `self.files`.
        Names that `save` does not write are therefore ignored.

        Args:
            files: names of the checkpoints that the run wrote before it was resumed, oldest first.
            best: record of the run's best evaluation.

        Returns:
            `best` if the best checkpoint is in the folder, else None.
        """
        self.files = [name for name in files if NAME.fullmatch(name) and (self.folder / name).is_file()]
        return best if best and (self.folder / best_name(best["metric"])).is_file() else None

    def remove_temporary(self) -> None:
        """Delete the temporary files that a killed process left behind."""
        for name in (*WRITTEN, POINTER, "log.jsonl"):
            for path in self.folder.glob(f".{name}.tmp"):
                path.unlink(missing_ok=True)

    def newest(self) -> Path | None:
        """The checkpoint named in `last_checkpoint` if it is readable, else the run's readable checkpoint with the most
        iterations, with a warning about the unreadable checkpoints. None if the folder has no checkpoints, or a new
        run has not saved a checkpoint yet.

        Raises:
            CheckpointError: there are checkpoints, but none is readable.
        """
        name = self.last()
        if name == "":
            return None
        if name is not None and _iteration(self.folder / name) is not None:
            return self.folder / name
        iterations = {path: _iteration(path) for pattern in WRITTEN for path in self.folder.glob(pattern)}
        readable = [(iteration, path) for path, iteration in iterations.items() if iteration is not None]
        damaged = {path.name for path, iteration in iterations.items() if iteration is None} | (
            {name} if name else set()
        )
        if not readable and any(iteration is None for iteration in iterations.values()):
            remedy = "restore one of them, or move them elsewhere to start from the beginning"
            names = ", ".join(map(printable, sorted(damaged)))
            raise CheckpointError(f"{self.folder}: no checkpoint can be read ({names}); {remedy}")
        if readable and damaged:
            names = ", ".join(printable(str(self.folder / name), None) for name in sorted(damaged))
            logger.warning(
                f"{names} cannot be read (missing or damaged); the newest readable checkpoint is used: "
                f"{max(readable)[1].name}"
            )
        return max(readable)[1] if readable else None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that training can resume from; nothing in the file is executed.

    Raises:
        CheckpointError: the file is missing, truncated, not a Chordate checkpoint, or has no training state.
    """
    state = read_state(path)
    if checkpoint_meta(state) is None:
        raise CheckpointError(f"{path} was not written by Chordate; --resume needs a checkpoint from training")
    if state.get("train") is None:
        raise CheckpointError(f"{path} has no training state, only weights; --resume needs a checkpoint from training")
    return state


def best_name(metric: str) -> str:
    """The file name of the checkpoint with the best value of a metric."""
    return f"best_{file_stem(metric)}.pt"


def _iteration(path: Path) -> int | None:
    """The number of completed iterations of a checkpoint; None if it is unreadable."""
    try:
        return int(read_pickle_file(path)["train"]["iteration"]) if path.is_file() else None
    except Exception:  # the file is truncated, damaged, or from another library
        return None


def to_cpu(value: Any) -> Any:
    """Copy a nested structure to plain dicts and lists, with every tensor detached and on the CPU.

    Raises:
        CheckpointError: a value has a type that cannot be loaded safely.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_cpu(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    kind = type(value).__name__
    raise CheckpointError(f"a checkpoint can contain only tensors, numbers and text, got {kind} ({value!r:.60})")
