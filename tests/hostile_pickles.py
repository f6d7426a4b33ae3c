"""Makes pickles with hostile values in place of weights, for the tests of untrusted files. All must be refused."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hostile_archives import Write, write_members

START = b"\x80\x02}X\x05\x00\x00\x00model}X\x06\x00\x00\x00weight"  # {"model": {"weight": …
END = b"ss."
RECONSTRUCT, NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n"


def pickles(canary: Path) -> Iterator[tuple[str, Write]]:
    """Pickles that call forbidden functions, need much memory or time, declare wrong sizes, or contain themselves.

    Each pickle in `values` is written both as a plain file and in the zip format of `torch.save`.
    """
    touch = str(canary).encode()
    text = b"X" + struct.pack("<I", len(touch)) + touch
    values = {
        "calls os.mkdir": b"cos\nmkdir\n" + text + b"\x85R",
        "calls numpy.fromfile": b"cnumpy\nfromfile\n" + text + b"\x85R",
        "calls numpy.save": b"cnumpy\nsave\n" + text + b"K\x01\x86R",
        "calls numpy's loader of pickles": b"cnumpy\nload\n" + text + b"N\x88\x87R",
        "calls builtins.exec": b"cbuiltins\nexec\nX\x01\x00\x00\x001\x85R",
        "calls a name with a dot": b"\x8c\x05numpy\x8c\x10ndarray.__call__\x93K\x03\x85R",
        "calls numpy.ndarray": NDARRAY + b"J\xff\xff\xff\x7f\x85R",
        "has a class by its opcode": b"(" + text + b"ios\nmkdir\n",
        "has a persistent id": b"X\x01\x00\x00\x00aQ",
        "has an extension": b"\x82\x01",
        "has a large memo": b"N" + b"r" + struct.pack("<I", 2**31),
        "has a long integer": b"\x8b" + struct.pack("<I", 4) + b"\xff" * 4,
        "claims many bytes": b"\x8e" + struct.pack("<Q", 2**60),
        "claims a large bytearray": b"\x96" + struct.pack("<Q", 2**60),
        "claims a long text": b"X" + struct.pack("<I", 2**32 - 1),
        "has an array in its own state": RECONSTRUCT
        + NDARRAY
        + b"K\x00\x85C\x01b\x87Rq\x01(K\x01h\x01h\x01\x89h\x01tb",
        **small_but_large(),
    }
    for name, value in values.items():
        content = START + value + END
        yield f"pickle {name}", lambda path, content=content: path.write_bytes(content)
        yield f"zipped pickle {name}", lambda path, content=content: write_zip(path, content)
    yield "pickle is truncated", lambda path: path.write_bytes(pickle.dumps({"model": {"w": np.zeros(99)}})[:-40])
    yield "pickle repeats one array", lambda path: path.write_bytes(repeated())
    arrays: dict[str, Any] = {
        "of objects": np.array([print, None], dtype=object),
        "of text": np.array(["a", "b"]),
        "of fields": np.zeros(3, dtype=[("x", "f4"), ("y", "i4")]),
        "of dates": np.zeros(3, dtype="datetime64[s]"),
        "in another byte order": np.zeros(3, dtype=">f4"),
    }
    for name, array in arrays.items():
        yield f"pickle has an array {name}", lambda path, array=array: path.write_bytes(dumps(array))
    for name, shape in {
        "larger": (10**12,),
        "smaller": (2,),
        "negative": (-3,),
        "a product of": (2**32, 2**32),
    }.items():
        yield f"pickle has an array with {name} sides", lambda path, shape=shape: path.write_bytes(state(shape))


def small_but_large() -> dict[str, bytes]:
    """Values that are small in a file, but need much memory or time if they are copied, hashed or printed."""
    text, length = b"X" + struct.pack("<I", 50_000) + b"a" * 50_000, 2_000
    pairs = b"](" + b"".join(b"K\x01" + b"J" + struct.pack("<i", number) + b"\x86" for number in range(length)) + b"e"
    numbers = b"(" + b"K\x00" * length + b"t"
    side = b"\x8a\x08" + b"\xff" * 7 + b"\x7f"  # 2**63 - 1
    shape = b"(" + side * length + b"t"
    equal_hashes = b"}(" + b"".join(
        b"\x8a\x10" + (number * (2**61 - 1)).to_bytes(16, "little") + b"N" for number in range(8, length)
    )

    def calls(function: bytes, arguments: bytes, number: int = 5_000) -> bytes:
        return function + b"q\x000" + arguments + b"q\x010](" + b"h\x00h\x01R" * number + b"e"

    create = RECONSTRUCT + NDARRAY + b"K\x00\x85U\x01b\x87R"
    dtype = pickle.dumps(np.dtype("<f4"), protocol=2)[2:-1]
    doubled = b")" + b"2\x86" * 60  # hashing or printing it would visit 2**60 items
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + doubled + b"X\x03\x00\x00\x00cpuK\x01tQ"
    return {
        "has a doubled tuple as a key": b"}" + doubled + b"K\x01s",
        "has a storage with a doubled tuple as its key": storage,
        "has an array of a doubled type": create
        + b"(K\x01K\x03\x85cnumpy\ndtype\n"
        + doubled
        + b"\x85R\x89U\x0c"
        + bytes(12)
        + b"tb",
        "encodes one text often": calls(b"c_codecs\nencode\n", text + b"\x85"),
        "makes many copies of one bytearray": calls(b"c__builtin__\nbytearray\n", text + b"\x85"),
        "makes a large bytearray": b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R",
        "makes many copies of one dict": calls(b"ccollections\nOrderedDict\n", pairs + b"\x85"),
        "makes many copies of one Counter": calls(b"ccollections\nCounter\n", pairs + b"\x85"),
        "makes many copies of one defaultdict": calls(b"ccollections\ndefaultdict\n", b"N" + pairs + b"\x86"),
        "calls often with one long tuple": calls(b"cnumpy\ndtype\n", numbers, 20_000),
        "has keys with one hash": equal_hashes + b"u",
        "has an array of many dimensions": create + b"(K\x01" + shape + dtype + b"\x89U\x0c" + bytes(12) + b"tb",
    }


def write_zip(path: Path, pickled: bytes) -> None:
    write_members(path, [("a/data.pkl", pickled), ("a/byteorder", b"little"), ("a/version", b"3\n")])


def dumps(array: Any) -> bytes:
    return pickle.dumps({"model": {"weight": array}}, protocol=2)


def state(shape: tuple[int, ...]) -> bytes:
    """A pickle of 3 floats that claims another shape."""
    sides = pickle.dumps(shape, protocol=2)[2:-1]
    dtype = pickle.dumps(np.dtype("<f4"), protocol=2)[2:-1]
    create = RECONSTRUCT + NDARRAY + b"K\x00\x85U\x01b\x87R"
    return START + create + b"(K\x01" + sides + dtype + b"\x89U\x0c" + bytes(12) + b"tb" + END


def repeated() -> bytes:
    """A pickle in which 5,000 weights are the same array of 1 MiB."""
    block = np.zeros(1 << 18, dtype=np.float32)
    return pickle.dumps({"model": {str(number): block for number in range(5_000)}}, protocol=2)
