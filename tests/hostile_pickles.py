"""Makes hostile pickles of numpy arrays, for the tests of untrusted files. All of them must be refused."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hostile_archives import Write

START = b"\x80\x02}X\x05\x00\x00\x00model}X\x06\x00\x00\x00weight"  # {"model": {"weight": …
END = b"ss."
RECONSTRUCT, NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n"


def pickles(canary: Path) -> Iterator[tuple[str, Write]]:
    """Pickles that call other functions, allocate memory, claim wrong sizes, or contain themselves."""
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
    }
    for name, value in values.items():
        yield f"pickle {name}", lambda path, value=value: path.write_bytes(START + value + END)
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


def dumps(array: Any) -> bytes:
    return pickle.dumps({"model": {"weight": array}}, protocol=2)


def state(shape: tuple[int, ...]) -> bytes:
    """A pickle of 3 floats that claims another shape."""
    sides = pickle.dumps(shape, protocol=2)[2:-1]
    dtype = pickle.dumps(np.dtype("<f4"), protocol=2)[2:-1]
    create = RECONSTRUCT + NDARRAY + b"K\x00\x85U\x01b\x87R"
    return START + create + b"(K\x01" + sides + dtype + b"\x89U\x0c" + bytes(12) + b"tb" + END


def repeated() -> bytes:
    """A pickle that uses the same array of 1 MB 5,000 times."""
    block = np.zeros(1 << 18, dtype=np.float32)
    return pickle.dumps({"model": {str(number): block for number in range(5_000)}}, protocol=2)
