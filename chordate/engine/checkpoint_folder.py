"""The checkpoint files of a run: written whole or not at all, the newest found again, the old ones cleared.

A file is written beside its place, flushed to the disk, renamed over its place, named in `last_checkpoint`, and only
then is an older one deleted. A process killed at any moment leaves a whole checkpoint behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from chordate.checkpoints.source import read_state
from chordate.errors import CheckpointError

POINTER = "last_checkpoint"
SUFFIX = ".pt"
TEMPORARY = ".tmp"


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Create or replace `path` with what `write` puts into the file it is given; all of it, or nothing.

    Raises:
        OSError: it could not be written; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the renaming itself must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class CheckpointFolder:
    """The checkpoints in one folder.

    Args:
        folder: made where it does not exist.
        keep: how many of the newest to keep; None keeps all. Only files written by this run (see `files`) are deleted.
    """

    def __init__(self, folder: str | Path, keep: int | None = None):
        self.folder, self.keep = Path(folder), keep
        self.folder.mkdir(parents=True, exist_ok=True)
        self.files: list[str] = []
        """Names of this run's checkpoints, oldest first."""

    def save(self, name: str, state: Mapping[str, Any]) -> Path:
        """Write the checkpoint `name` and make it the last; then delete what is older than `keep` allows.

        Raises:
            CheckpointError: the disk is full or the folder not writable. Older checkpoints are untouched.
        """
        path = self.write(name, state)
        self._write(POINTER, lambda file: file.write(f"{name}\n".encode()))
        self.files = [*(file for file in self.files if file != name), name]
        while self.keep is not None and len(self.files) > self.keep:
            (self.folder / self.files.pop(0)).unlink(missing_ok=True)
        return path

    def write(self, name: str, state: Mapping[str, Any]) -> Path:
        """Write the checkpoint `name`, without making it the last or deleting any.

        Raises:
            CheckpointError: the disk is full or the folder not writable. A file of that name is as it was.
        """
        return self._write(name, lambda file: torch.save(dict(state), file))

    def _write(self, name: str, write: Callable[[BinaryIO], Any]) -> Path:
        path = self.folder / name
        try:
            write_atomically(path, write)
        except OSError as error:
            last = f"; {self.files[-1]} is whole, --resume goes on from it" if self.files else ""
            raise CheckpointError(f"{path}: cannot be written ({error.strerror or error}){last}") from error
        return path

    def begin(self) -> bool:
        """Start a training anew: what an earlier one left is no longer the last checkpoint, but stays.

        Returns:
            Whether there was an earlier one.
        """
        if not (self.folder / POINTER).is_file():
            return False
        self._write(POINTER, lambda file: None)
        return True

    def take_over(self, files: Sequence[str]) -> None:
        """Count the checkpoints that this run wrote before it was resumed among those that may be deleted."""
        self.files = [name for name in files if (self.folder / name).is_file()]

    def remove_temporary(self) -> None:
        """Delete what a killed process left half-written."""
        for path in self.folder.glob(f".*{TEMPORARY}"):
            path.unlink(missing_ok=True)

    def newest(self) -> Path | None:
        """The last whole checkpoint: the one that `last_checkpoint` names, else the one that got furthest; None
        where a training was started anew and has saved nothing yet."""
        pointer = self.folder / POINTER
        if pointer.is_file():
            name = pointer.read_text().strip()
            if not name:
                return None
            if _iteration(self.folder / name) is not None:
                return self.folder / name
        whole = [
            (iteration, path) for path in self.folder.glob(f"*{SUFFIX}") if (iteration := _iteration(path)) is not None
        ]
        return max(whole)[1] if whole else None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that training can go on from; nothing in the file is executed.

    Raises:
        CheckpointError: no such file, cut short, not Chordate's own, or without a training state.
    """
    state = read_state(path)
    if state.get("chordate") != 1:
        raise CheckpointError(f"{path}: not a checkpoint of Chordate's own; --resume needs one that training wrote")
    if not isinstance(state.get("train"), dict) or not isinstance(state.get("model"), dict):
        raise CheckpointError(f"{path}: holds weights but no training state; --resume needs one that training wrote")
    return state


def _iteration(path: Path) -> int | None:
    """How far the training in a whole checkpoint had got; None for any other file. Reads no weights."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["train"]["iteration"])
    except Exception:  # cut, foreign, or not there: not one to resume from
        return None
