"""Reads the files of `torch.save`, and pickles of numpy arrays, without running code from them."""

from __future__ import annotations

import io
import mmap
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from chordate.errors import CheckpointError
from chordate.text import one_line, printable
from chordate.weights import pickled_arrays, pickled_tensors
from chordate.weights.pickled_tensors import Storage
from chordate.weights.plain_contents import PlainCopy
from chordate.weights.restricted_pickle import Unpickler, forbidden

MAX_UNPACKED = 10  # limit on the unpacked bytes of a zip file per byte of the file
CALLS = {**pickled_arrays.CALLS, **pickled_tensors.CALLS}
# Files in torch.save's old format start with one of these pickles of the magic number.
_OLD_STARTS = tuple(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=protocol) for protocol in range(2, 6))
_ALIGNMENT = 16  # bytes; the size of the largest data type, complex128


def read_pickle_file(path: Path) -> Any:
    """Read a file of `torch.save`, in its zip format or its old format, or a pickle of numpy arrays.

    Returns:
        Dicts, lists, tuples, text, numbers and tensors on the CPU. Numpy arrays become tensors; objects of other
        classes become None.

    Raises:
        CheckpointError: the file is truncated, damaged or of another kind, calls an unknown function, exceeds a limit,
            or has objects but no tensors.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise CheckpointError(f"{path} is empty; copy or download it again")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull`")
    if not head.startswith((b"PK", b"\x80")):  # a zip file, or a pickle of protocol 2 or later
        raise CheckpointError(f"{path} is not a checkpoint: it starts with {head[:16]!r}")
    try:
        values, unread = _read_zip(path) if head.startswith(b"PK") else _read_pickle(path, head)
        copy = PlainCopy(str(path), path.stat().st_size)
        values = copy(values)
    except CheckpointError:
        raise
    except Exception as error:  # damaged files raise many types of errors
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from error
    if unread and not copy.num_tensors:
        raise forbidden(str(path), unread)
    return values


def _read_zip(path: Path) -> tuple[Any, str | None]:
    """Read a zip file: the pickle is `<folder>/data.pkl`, and the storage with the key 3 is `<folder>/data/3`."""
    members = check_zip(path)
    folder = next((name for name in members if name.endswith("/data.pkl")), "/data.pkl").removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members:
        raise CheckpointError(f"{path} is a TorchScript program, not a checkpoint; save its state_dict()")
    data = _mapped(path)

    def load_storage(saved: Any) -> Storage:
        _, kind, key, _, length = saved
        storage = Storage(kind, key, length)
        start, size = members[f"{folder}data/{key}"] if length else (0, 0)
        storage.check(size)
        storage.data = _part(data, start, size)
        return storage

    with zipfile.ZipFile(path) as archive:
        for name in ("version", ".storage_alignment"):
            if (name == "version" or folder + name in members) and not archive.read(folder + name).strip().isdigit():
                raise ValueError(f"{name} in the zip file is not a number")
        if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its byte order is not little-endian")
        pickled = archive.read(f"{folder}data.pkl")
    unpickler = Unpickler(io.BytesIO(pickled), str(path), len(pickled), CALLS, load_storage)
    return unpickler.load(), unpickler.unread


def _read_pickle(path: Path, head: bytes) -> tuple[Any, str | None]:
    """Read a pickle of numpy arrays, or torch.save's old format: five pickles, followed by the storages."""
    size, storages = path.stat().st_size, dict[str, Storage]()

    def load_storage(saved: Any) -> Any:
        what, kind, *arguments = saved
        if what != "storage":
            return kind  # old files refer to a module's class and source code; `kind` is the class
        key, _, length, view = arguments
        if view is not None:
            raise ValueError("it has a storage that is a view of another storage, which is not supported")
        storage = Storage(kind, key, length)
        return storages.setdefault(storage.key, storage)

    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        file = cast(BinaryIO, mapped)
        if not head.startswith(_OLD_STARTS):
            unpickler = Unpickler(file, str(path), size, CALLS)
            return unpickler.load(), unpickler.unread
        unpicklers = [Unpickler(file, str(path), size, CALLS, load_storage) for _ in range(5)]
        _, _, system, values, keys = [unpickler.load() for unpickler in unpicklers]
        if not system["little_endian"]:
            raise ValueError("its byte order is not little-endian")
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("the key of a storage is not text")
        _read_storages(path, file, [storages[key] for key in keys])
        return values, unpicklers[3].unread


def _read_storages(path: Path, file: BinaryIO, storages: list[Storage]) -> None:
    """Read storages of torch.save's old format: before each storage, the file has its number of elements as int64."""
    data = _mapped(path)
    for storage in storages:
        header, start = file.read(8), file.tell()
        if storage.dtype is None:
            raise ValueError("it has tensors of an unsupported data type, for example quantized tensors")
        size = storage.length * storage.dtype.itemsize
        if len(header) < 8 or start + size > len(data):
            raise CheckpointError(f"{path} is truncated; copy or download it again")
        storage.check(struct.unpack("<q", header)[0] * storage.dtype.itemsize)
        storage.data = _part(data, start, size)
        file.seek(start + size)


def _mapped(path: Path) -> torch.UntypedStorage:
    """The bytes of a file, which are read from the disk when they are used."""
    return cast(torch.UntypedStorage, torch.UntypedStorage.from_file(str(path), False, path.stat().st_size))


def _part(data: torch.UntypedStorage, start: int, size: int) -> Tensor:
    """The bytes from `start`, as a uint8 tensor `[size]` whose storage has only these bytes; copied if not aligned."""
    part = torch.empty(0, dtype=torch.uint8).set_(data[start : start + size])
    return part if start % _ALIGNMENT == 0 else part.clone()


def check_zip(path: Path) -> dict[str, tuple[int, int]]:
    """Check the central directory, the sizes and the checksums of a checkpoint that is a zip file.

    Returns:
        Position in the file and size in bytes of each member, by name.

    Raises:
        CheckpointError: the file is truncated or damaged, or is not from torch.save: its tensors are compressed, names
            of members are repeated, or the members are more than MAX_UNPACKED times as large as the file.
    """
    if not zipfile.is_zipfile(path):  # a truncated file lacks the central directory at its end
        raise CheckpointError(f"{path} is truncated; copy or download it again")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            packed = [member.filename for member in members if member.compress_type and "/data/" in member.filename]
            size = sum(member.file_size for member in members)
            if packed or len(set(names)) < len(names) or size > MAX_UNPACKED * path.stat().st_size:
                raise CheckpointError(
                    f"{path} is not a file of torch.save: it has compressed tensors, two members with the same "
                    f"name, or members much larger than the file"
                )
            damaged = archive.testzip()
            if damaged is not None:
                raise CheckpointError(
                    f"{path} is damaged: the checksum of {printable(damaged)} is wrong; copy or download it again"
                )
            return {member.filename: (_position(file, member.header_offset), member.file_size) for member in members}
    except CheckpointError:
        raise
    except Exception as error:  # damaged files raise many types of errors
        raise CheckpointError(f"{path} is damaged ({_reason(error)}); copy or download it again") from error


def _position(file: BinaryIO, header: int) -> int:
    """Position of a member's bytes, which follow its header (30 bytes from `header`), its name and extra fields."""
    file.seek(header)
    name, extra = struct.unpack("<26x2H", file.read(30))
    return header + 30 + int(name) + int(extra)


def _reason(error: Exception) -> str:
    return printable(one_line(error) or type(error).__name__, 160)
