"""Files of torch.save and pickles: the tensors equal those of `torch.load`, and no file can harm the process."""

from __future__ import annotations

import argparse
import contextlib
import pickle
import time
import tracemalloc
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_toys import TinyDetector, filled, message
from hostile_pickles import END, START, pickles, write_zip
from torch import Tensor, nn
from torchvision import tv_tensors

from chordate.errors import CheckpointError
from chordate.weights.checkpoint_sources import read_state
from chordate.weights.find_weights import find_weights
from chordate.weights.pickle_files import CALLS, read_pickle_file

FORMATS: dict[str, dict[str, Any]] = {
    "zip": {},
    "zip of protocol 4": {"pickle_protocol": 4},
    "old": {"_use_new_zipfile_serialization": False},
}
DTYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip


def tensors() -> dict[str, Tensor]:
    values = torch.arange(24.0).reshape(4, 6)
    with_attribute = values.clone()
    with_attribute.mine = 3  # type: ignore[attr-defined]
    views = {"transposed": values.t(), "part": values[1:, 2:], "expanded": torch.ones(1).expand(5)}
    kinds = {
        "parameter": nn.Parameter(values),
        "subclass": tv_tensors.Mask(torch.ones(2, 2)),
        "attribute": with_attribute,
    }
    sizes = {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 3)}
    return {**views, **kinds, **sizes, **{str(dtype): torch.arange(5).to(dtype) for dtype in DTYPES}}


@pytest.mark.parametrize("format", FORMATS)
def test_tensors_equal_those_that_were_saved(format: str, tmp_path: Path) -> None:
    torch.save(OrderedDict(tensors()), tmp_path / "x.pt", **FORMATS[format])
    read = read_pickle_file(tmp_path / "x.pt")
    assert list(read) == list(tensors())
    for name, tensor in tensors().items():
        assert type(read[name]) is Tensor and read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor.detach().as_subclass(Tensor)), name


@pytest.mark.parametrize("format", FORMATS)
def test_plain_values_equal_those_that_were_saved(format: str, tmp_path: Path) -> None:
    plain = {
        "numbers": [0, 1, 255, -1, 70_000, 2**40, -(2**70), 0.5, True, None],
        "text": ("", "a", "ä\0\ud800"),
        "bytes": (b"", b"\x00\xff" * 200),
        "dicts": {"a": {1: {}, 2.5: [], None: ()}},
        "size": torch.Size([2, 3]),
    }
    dicts = {"Counter": Counter("aab"), "defaultdict": defaultdict(list, a=[1]), "OrderedDict": OrderedDict(b=1, a=2)}
    torch.save({**plain, **dicts}, tmp_path / "x.pt", **FORMATS[format])
    assert read_pickle_file(tmp_path / "x.pt") == {**plain, **dicts}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_a_pickle_become_equal_tensors(protocol: int, tmp_path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "fortran": np.asfortranarray(np.eye(3, 2)), "empty": np.zeros((0, 2))}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({**arrays, "number": np.float32(0.25)}, protocol=protocol))
    read = read_pickle_file(tmp_path / "x.pkl")
    assert read.pop("number") == 0.25
    assert all(np.array_equal(read[name].numpy(), array) for name, array in arrays.items())


class Mine:
    """An object of a class that only the writer of a file has; creating one is recorded."""

    made = 0

    def __new__(cls) -> Mine:
        Mine.made += 1
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        Mine.made += 1


@pytest.mark.parametrize("format", FORMATS)
def test_objects_beside_the_weights_are_left_out(format: str, tmp_path: Path) -> None:
    """timm, torchvision's references and DETR save `args`; Lightning saves `hyper_parameters`."""
    mine = Mine()
    mine.x = 3  # type: ignore[attr-defined]
    rest = {"args": argparse.Namespace(out=Path("a"), lr=0.1), "mine": mine, "set": {1}, "dtype": torch.float16}
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3, **rest}, tmp_path / "x.pt", **FORMATS[format])
    made = Mine.made
    contents = read_state(tmp_path / "x.pt")
    assert Mine.made == made
    assert contents["epoch"] == 3 and all(contents[name] is None for name in rest)
    assert find_weights(contents).state["w"].tolist() == [1, 1]


def test_a_checkpoint_of_mmengines_training_is_read(tmp_path: Path) -> None:
    """The checkpoint's `message_hub` contains HistoryBuffers, which have arrays and methods."""
    hub = pytest.importorskip("mmengine.logging").MessageHub("a test of checkpoints")  # only needed to write the file
    hub.update_scalar("loss", 1.0)
    hub.update_info("iter", 3)
    meta = {"epoch": 1, "dataset_meta": {"classes": ("cat", "dog")}}
    state = {"meta": meta, "state_dict": {"w": torch.ones(2)}, "message_hub": hub.state_dict()}
    torch.save(state, tmp_path / "epoch_1.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    weights = find_weights(read_state(tmp_path / "epoch_1.pth"))
    assert weights.contents["meta"] == meta and weights.state["w"].tolist() == [1, 1]


class Bomb:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_not_opened(zipped, protocol, tmp_path):
    proof = tmp_path / "code ran"
    path = tmp_path / "bomb.pth"
    state = filled(TinyDetector()).state_dict()
    torch.save(
        {"model": state, "hook": Bomb(proof)},
        path,
        _use_new_zipfile_serialization=zipped,
        pickle_protocol=protocol,
    )
    assert "could run code, so it was not opened" in message(TinyDetector(), path)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # proves that the pickle runs code
    assert proof.exists()


def test_a_whole_model_is_refused_by_the_name_of_its_class(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.* save only its state_dict"):
        read_state(tmp_path / "x.pt")


def test_hostile_pickles_need_little_memory_and_time(tmp_path: Path) -> None:
    """The files have at most 110 kB; if each call in a pickle made a copy, loading would need up to 1 GB."""
    cases = dict(pickles(tmp_path / "ran"))
    del cases["pickle repeats one array"]  # a large file
    for number, (name, write) in enumerate(cases.items()):
        path = tmp_path / str(number)
        write(path)
        start = time.process_time()
        tracemalloc.start()
        try:
            with pytest.raises(CheckpointError) as error:
                find_weights(read_state(path))
            assert tracemalloc.get_traced_memory()[1] < 8e6, name
        finally:
            tracemalloc.stop()
        assert time.process_time() - start < 5, name
        assert str(path) in str(error.value) and str(error.value).isprintable(), name
    assert not (tmp_path / "ran").exists()


def test_a_pickle_cannot_change_how_the_next_file_is_read(tmp_path: Path) -> None:
    """In Python's own unpickler, BUILD sets attributes of any object, also of classes and functions."""
    arrays = {"w": np.arange(3.0), "lr": np.float64(0.5), "bytes": b"a"}
    (tmp_path / "clean.pkl").write_bytes(pickle.dumps(arrays, protocol=2))
    names = [*CALLS, "_codecs.encode", "collections.OrderedDict", "numpy.ndarray"]
    attributes = ["value", "build", "__init__", "__defaults__", "__code__", "__class__", "state", "name"]
    for name in names:
        place = b"c" + b"\n".join(name.rpartition(".")[::2][i].encode() for i in (0, 1)) + b"\n"
        changes = b"".join(
            b"\x8c" + bytes([len(name)]) + name.encode() + b"ccollections\nOrderedDict\n" for name in attributes
        )
        for made in (place, place + b")\x81"):
            for state in (b"}(" + changes + b"u", b"N}(" + changes + b"u\x86"):
                hostile = START + made + state + b"b" + END
                (tmp_path / "hostile.pkl").write_bytes(hostile)
                write_zip(tmp_path / "hostile.pt", hostile)
                for file in ("hostile.pkl", "hostile.pt"):
                    with contextlib.suppress(CheckpointError):
                        read_pickle_file(tmp_path / file)
        read = read_pickle_file(tmp_path / "clean.pkl")
        assert read["w"].tolist() == [0, 1, 2] and read["lr"] == 0.5 and read["bytes"] == b"a", name
