"""Untrusted data files: limits on sizes and nesting, regular files only, and names that are printed as text."""

from __future__ import annotations

import importlib
import io
import json
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from pycocotools import mask as rle
from rich.console import Console
from tiny_coco import annotation, write_coco

from chordate import data
from chordate.config import load_config
from chordate.data import CocoDataset, ImageFolder, SemanticFolder, YoloDataset, zip_files
from chordate.data.coco_geometry import decompress
from chordate.data.detected_boxes import read_detected_boxes
from chordate.data.findings import Health
from chordate.data.image_io import read_image
from chordate.data.label_files import read_label_image
from chordate.data.object_boxes import read_predicted_boxes
from chordate.data.panoptic_index import read_panoptic_json
from chordate.data.rle import check_rle
from chordate.data.voc_xml import read_voc_xml
from chordate.errors import ChordateError, DataError
from chordate.progress import ProgressBar
from chordate.structures import Sample

NOTHING = np.zeros(0, np.int64)
READERS: dict[str, Callable[[Path], Any]] = {
    "image": read_image,
    "label image": read_label_image,
    "annotations": lambda path: CocoDataset(path, path.parent),
    "panoptic": read_panoptic_json,
    "results": lambda path: read_detected_boxes(path, NOTHING, []),
    "class names": lambda path: YoloDataset(path.parent, path.parent, path),
    "image list": lambda path: SemanticFolder(path.parent, path.parent, classes=["a"], files=path),
    "config": lambda path: load_config(path),
    "XML": read_voc_xml,
    "predicted boxes": lambda path: read_predicted_boxes(path, ["a"]),
}


def message(function: Callable[..., Any], *arguments: Any, **settings: Any) -> str:
    """The error message of a call; asserts that it is one printable line."""
    with pytest.raises(ChordateError) as error:
        function(*arguments, **settings)
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("reader", READERS)
def test_only_regular_files_are_read(tmp_path: Path, reader: str, kind: str) -> None:
    """Reading a pipe would wait forever, and reading /dev/zero would fill the memory."""
    (tmp_path / "a.jpg").write_bytes(png(4, 4))
    file = tmp_path / ("b.json" if reader == "config" else "b.txt")
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    assert str(file) in (line := message(READERS[reader], file))
    assert "regular file" in line or reader == "config"


def png(width: int, height: int) -> bytes:
    """A black PNG whose header claims this size; from a million pixels on, only 1,000 bytes of pixels are stored."""
    pixels = zlib.compress(bytes((1 + width) * height)) if width * height < 10**6 else zlib.compress(bytes(1000))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", pixels), (b"IEND", b"")]
    body = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def bmp(width: int, height: int) -> bytes:
    return (
        b"BM" + struct.pack("<IHHIIiiHHIIIIII", 100, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(46)
    )


def jpeg(width: int, height: int) -> bytes:
    """A JPEG of 16×16 pixels whose header claims this size."""
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff(width: int, height: int) -> bytes:
    """A TIFF of 5 channels whose header claims this size, with one byte of pixels (Adobe, TIFF 6.0, section 2)."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 5, 278: height, 279: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 10) + b"\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


def npy(width: int, height: int) -> bytes:
    """An array file without data whose header claims this size."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (height, width)})
    return buffer.getvalue()


@pytest.mark.parametrize("make", [tiff, npy])
@pytest.mark.parametrize("side", [60_000, 2**31 - 1])
def test_an_array_that_claims_billions_of_pixels_is_not_allocated(tmp_path: Path, make: Any, side: int) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(make(side, side))
    assert f"{file}: " in message(read_image, file)


@pytest.mark.parametrize("make", [png, bmp, jpeg])
@pytest.mark.parametrize("reader", [read_image, read_label_image])
def test_an_image_that_claims_billions_of_pixels_is_not_decoded(tmp_path: Path, make: Any, reader: Any) -> None:
    if make is jpeg and reader is read_label_image:
        pytest.skip("label images are not JPEGs")
    file = tmp_path / "a.png"
    file.write_bytes(make(60_000, 60_000))
    assert (
        f"{file}: more than 178,956,970 pixels; the environment variable CHORDATE_MAX_PIXELS sets the limit"
        in message(reader, file)
    )


def test_the_limit_of_pixels_is_an_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in {"a.png": png(100, 50), "b.bmp": bmp(100, 50), "c.png": png(100, 49)}.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("CHORDATE_MAX_PIXELS", "4998")
    anew = import_anew(monkeypatch, "pixel_limit", "image_bands", "image_io")
    assert "a.png: more than 4,998 pixels" in message(anew.read_image, tmp_path / "a.png")
    assert "b.bmp: more than 4,998 pixels" in message(anew.read_image, tmp_path / "b.bmp")
    assert anew.read_image(tmp_path / "c.png").shape == (3, 49, 100)
    monkeypatch.setenv("CHORDATE_MAX_PIXELS", "many")
    line = message(import_anew, monkeypatch, "pixel_limit")
    assert line == "CHORDATE_MAX_PIXELS must be a positive integer, got 'many'"


def import_anew(monkeypatch: pytest.MonkeyPatch, *names: str) -> Any:
    """Import modules of `chordate.data` again, as in a new process; returns the last one.

    `monkeypatch` restores the old modules after the test.
    """
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", PIL.Image.MAX_IMAGE_PIXELS)  # the modules change it
    for name in names:
        monkeypatch.setattr(data, name, getattr(data, name))
        monkeypatch.delitem(sys.modules, f"chordate.data.{name}")
    return [importlib.import_module(f"chordate.data.{name}") for name in names][-1]


def test_an_image_file_may_not_be_larger_than_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png(4, 4))
    assert read_image(tmp_path / "a.png").shape == (3, 4, 4)
    os.truncate(tmp_path / "a.png", 2**31)  # a sparse file, which takes no space on the disk
    assert "a.png: larger than 1,073,741,824 bytes" in message(read_image, tmp_path / "a.png")


def test_members_of_a_zip_may_not_be_larger_than_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("cat/1.png", png(4, 4) + bytes(100_000))
        file.writestr("dog/1.png", png(4, 4))
    monkeypatch.setattr(zip_files, "MAX_UNPACKED_BYTES", 50_000)
    dataset = ImageFolder("a.zip", data_root=tmp_path)
    assert "cat/1.png: 100,0" in (line := message(dataset.decode, 0)) and "limit of 50,000" in line
    assert dataset.decode(1).shape == (3, 4, 4)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("depth", [150, 900, 100_000])
@pytest.mark.parametrize("reader", ["annotations", "panoptic", "results", "class names", "config"])
def test_deep_nesting_is_an_error(tmp_path: Path, reader: str, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    content = {"class names": f"names: {deep}", "results": deep, "config": f'{{"_x": {deep}}}'}
    file = tmp_path / {"config": "a.json", "class names": "a.yaml"}.get(reader, "a.txt")
    file.write_text(content.get(reader, f'{{"images": {deep}, "annotations": [], "categories": []}}'))
    assert str(file.name) in (line := message(READERS[reader], file))
    assert (reader, depth) != ("config", 100_000) or "nested too deeply" in line


def test_aliases_in_yaml_are_not_expanded(tmp_path: Path) -> None:
    """Nine levels of nine aliases each would expand to 9^10 strings, many gigabytes of text."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    (tmp_path / "data.yaml").write_text("\n".join([*lines, "names: [*a9]"]))
    line = message(YoloDataset, tmp_path, tmp_path, tmp_path / "data.yaml")
    (tmp_path / "split.yaml").write_text("\n".join([*lines, "names: [a]", "path: [*a9]", "train: x"]))
    assert len(message(YoloDataset, data="split.yaml", split="train", data_root=tmp_path)) < 500
    assert 'data.yaml: needs a list "names" of class names' in line


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".toml"])
def test_configs_in_yaml_are_refused_without_reading_them(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_text(f"!!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']")
    assert "configs are Python or JSON files" in message(load_config, file)
    assert not (tmp_path / "ran").exists()


def test_json_configs_are_data(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"_x": f"{{{{ __import__('os').mkdir('{tmp_path / 'ran'}') }}}}"}))
    load_config(file)
    assert not (tmp_path / "ran").exists()


# RLE


SIZES = [[10**9, 10**9], [2**31, 2**31], [61, 80], [80, 60], [0, 0], [-1, -1], [60], "6080", [60.5, 80], [1, 4800]]


@pytest.mark.parametrize("box", [True, False])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_rle_of_another_size_than_its_image_is_an_error(tmp_path: Path, size: Any, box: bool) -> None:
    """hotcoco would allocate memory for `size` before it reads the counts; this allocation would end the process."""
    record = {**annotation(1, 1, [1, 1, 5, 5]), "segmentation": {"size": size, "counts": [4800]}}
    if not box:
        del record["bbox"]
    write_coco(tmp_path, [record])

    def read(health: Health) -> Sample:
        return CocoDataset("annotations.json", "images", data_root=tmp_path, masks=True, health=health)[0, 0]

    assert "annotations.json" in message(read, "error")
    with suppress(DataError):  # raised if `box`: the object is kept, but no mask is usable
        assert not read("warn")["boxes"].numel()


@pytest.mark.parametrize("seed", range(20))
def test_runs_of_compressed_rles_are_those_of_pycocotools(seed: int) -> None:
    draw = np.random.default_rng(seed)
    mask = draw.random((draw.integers(1, 90), draw.integers(1, 90))) < draw.choice([0, 0.01, 0.5, 1])
    encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    change = np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0)).tolist()
    expected = np.diff([0, *change, mask.size])
    counts = encoded["counts"].decode()
    runs = decompress(counts)
    assert runs is not None and runs.tolist() == expected.tolist()
    check_rle({"id": 1, "segmentation": {**encoded, "counts": counts}}, mask.shape, "here")


@pytest.mark.parametrize("counts", [[10], "", "z", "PPYo0", "\xff", [-1, 4801], None, {}, "o" * 40])
def test_counts_that_do_not_fill_the_image_are_an_error(counts: Any) -> None:
    mask = {"id": 3, "segmentation": {"size": [60, 80], "counts": counts}}
    assert message(check_rle, mask, (60, 80), "a.json").startswith("a.json: the RLE of annotation 3 has ")


# Names


@pytest.mark.parametrize("name", ["[/red]", "[bold]x", "\x1b[31mx", "a\nb"])
def test_progress_bars_show_names_as_text(name: str) -> None:
    out = io.StringIO()
    bar = ProgressBar(Console(file=out, force_terminal=True, width=80))
    with bar.task(name, total=2) as update:
        update(description=name, status=name)
    if name.startswith("["):
        assert name in out.getvalue()


def test_log_lines_and_warnings_have_no_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from chordate.training.logging import logger, run_log

    with run_log(tmp_path) as folder:
        logger.warning("class \x1b[31mred\x00 [/red]")
    assert "class �[31mred� [/red]" in capsys.readouterr().out
    assert "class �[31mred� [/red]" in (folder / "train.log").read_text()
