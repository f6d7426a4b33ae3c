"""Makes damaged and doctored files in place of a checkpoint: zip files, safetensors files, pipes and devices."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Write = Callable[[Path], None]


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {info.filename: file.read(info) for info in file.infolist()}


def write_members(path: Path, content: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in content:
            file.writestr(name, data)


def edit_zip(base: Path, edit: Callable[[dict[str, bytes]], Any], compression: int = zipfile.ZIP_STORED) -> Write:
    """A function that writes an edited copy of a zip file.

    `edit` gets a dict of the members, and changes it in place or returns a list of other members.
    """

    def write(path: Path) -> None:
        content = members(base)
        result = edit(content)
        write_members(path, list(content.items()) if result is None else result, compression)

    return write


def edit_bytes(base: Path, edit: Callable[[bytearray], Any]) -> Write:
    def write(path: Path) -> None:
        content = bytearray(base.read_bytes())
        result = edit(content)
        path.write_bytes(content if result is None else result)

    return write


def archives(base: Path) -> Iterator[tuple[str, Write]]:
    """Damaged and doctored zip files."""
    size = base.stat().st_size
    for share in (0.01, 0.1, 0.5, 0.9, 0.999):
        yield f"cut at {share}", edit_bytes(base, lambda data, share=share: data[: int(len(data) * share)])
    content = members(base)
    root = next(iter(content)).split("/")[0]
    weights = [name for name in content if "/data/" in name]
    largest = max(weights, key=lambda name: len(content[name]))
    place = base.read_bytes().index(content[largest]) + 5
    yield "a flipped bit in a weight", edit_bytes(base, lambda data: data.__setitem__(place, data[place] ^ 1))
    for name in ("data.pkl", "byteorder", "version", "data/0"):
        valid = "valid: " if name == "byteorder" else ""  # files of older PyTorch versions have no byteorder
        yield f"{valid}no {name}", edit_zip(base, lambda data, name=name: data.pop(f"{root}/{name}") and None)
    for name in ("byteorder", ".format_version", ".storage_alignment", "version", "data/0", "data.pkl"):
        for value in (b"", b"big", b"\xff" * 100):
            edit = lambda data, name=name, value=value: data.__setitem__(f"{root}/{name}", value)  # noqa: E731
            valid = "valid: " if name == ".format_version" else ""  # torch.load does not use it
            yield f"{valid}{name} is {value!r:.12}", edit_zip(base, edit)
    double = lambda data: [*data.items(), *list(data.items())[-1:]]  # noqa: E731
    yield "a member twice", edit_zip(base, double)
    yield "compressed members", edit_zip(base, lambda data: None, zipfile.ZIP_DEFLATED)
    zeros = lambda data: data.__setitem__(f"{root}/more", bytes(10 * size + 2**20))  # noqa: E731
    yield "a zip bomb", edit_zip(base, zeros, zipfile.ZIP_DEFLATED)
    yield "bytes before the zip", edit_bytes(base, lambda data: b"x" * 100 + data)
    yield "an index that is not one", edit_bytes(base, lambda data: data[:-40] + b"\xff" * 40)
    yield "a larger storage", edit_zip(base, lambda data: data.__setitem__(f"{root}/data.pkl", larger(data, root)))
    yield "another zip", lambda path: write_members(path, [("a.txt", b"hello")])


def larger(content: dict[str, bytes], root: str) -> bytes:
    """The pickle, in which storages of 3 elements declare 3 million instead, far more than the file has."""
    pickled = content[f"{root}/data.pkl"]
    return pickled.replace(b"K\x03t", b"J" + struct.pack("<i", 3_000_000) + b"t")


def other_files(base: Path) -> Iterator[tuple[str, Write]]:
    """Files that are not checkpoints."""
    content = {
        "empty": b"",
        "html": b"<!DOCTYPE html><html>404</html>",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
        "zeros": bytes(1000),
        "a pickle header": b"\x80\x02",
        "a truncated pickle": pickle.dumps({"a": list(range(100))})[:-50],
        "PK": b"PK\x03\x04 no zip",
    }
    for name, data in content.items():
        yield f"file: {name}", lambda path, data=data: path.write_bytes(data)
    yield "file: a folder", lambda path: path.mkdir()
    yield "file: a pipe", lambda path: os.mkfifo(path)
    yield "file: an endless device", lambda path: path.symlink_to("/dev/zero")
    yield "file: an endless random device", lambda path: path.symlink_to("/dev/urandom")
    yield "file: a link to nothing", lambda path: path.symlink_to(path.with_name("nothing"))
    yield "file: a link to itself", lambda path: path.symlink_to(path)


def safetensors_files() -> Iterator[tuple[str, Write]]:
    headers = {
        "a huge header": struct.pack("<Q", 2**62) + b"{}",
        "a deep header": header(b'{"a":' * 3000 + b"1" + b"}" * 3000),
        "no JSON": header(b"{{{{"),
        "tensors past the end": header(b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}'),
        "a negative shape": header(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}') + bytes(4),
        "an unknown type": header(b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
        "no tensors": header(b"{}"),
    }
    for name, data in headers.items():
        yield f"safetensors: {name}", lambda path, data=data: path.write_bytes(data)


def header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text
