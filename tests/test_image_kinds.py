"""Image files of every kind are converted to 8 bits and the model's number of channels, or raise a one-line error."""

import io
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from loading import checkpoint_of
from raw_images import palette_png, png, tiff

import chordate
from chordate.data import image_bands
from chordate.data.image_files import list_images
from chordate.data.image_headers import displayed_size
from chordate.data.image_io import SUFFIXES, read_image
from chordate.data.loader import build_dataset
from chordate.errors import BrokenFile, DataError

HEIGHT, WIDTH = 12, 18


@pytest.fixture
def bands() -> np.ndarray:
    """A random image `[H, W, 7]`, uint8, with values 0 … 255."""
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 7), dtype=np.uint8)


@pytest.fixture(autouse=True)
def forget_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_bands, "reported", set())


def read(path: Path, content: bytes, channels: int = 3) -> np.ndarray:
    """The pixels `[H, W, C]` that are read from a file with this content."""
    path.write_bytes(content)
    image = read_image(path, channels=channels)
    assert image.dtype == torch.uint8 and image.shape[0] == channels
    assert displayed_size(path) == tuple(image.shape[1:])
    return image.permute(1, 2, 0).numpy()


def error_line(path: Path, content: bytes, channels: int = 3) -> str:
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_image(path, channels=channels)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{path}: ")
    return str(error.value)


# Bits


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["png", "tif", "npy"])
def test_sensor_bits_in_16_bits_fill_the_range(tmp_path: Path, caplog, bits: int, kind: str) -> None:
    values = np.random.default_rng(1).integers(0, 2**bits, (HEIGHT, WIDTH, 1)).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    array = io.BytesIO()
    np.save(array, values)
    content = {"png": png(values), "tif": tiff(values), "npy": array.getvalue()}[kind]
    got = read(tmp_path / f"a.{kind}", content)
    np.testing.assert_array_equal(got, (values >> (bits - 8)).repeat(3, 2))
    reports = [record.message for record in caplog.records]
    assert len(reports) == (bits < 16)
    assert all(f"read as {bits} bits" in text for text in reports)


def deep_folder(root: Path, images: list[np.ndarray], kind: str) -> Path:
    for number, values in enumerate(images):
        array = io.BytesIO()
        np.save(array, values)
        content = array.getvalue() if kind == "npy" else {"png": png, "tif": tiff}[kind](values)
        (root / "train/a").mkdir(parents=True, exist_ok=True)
        (root / f"train/a/{number}.{kind}").write_bytes(content)
    return root


@pytest.mark.parametrize("kind", ["png", "tif", "npy"])
@pytest.mark.parametrize("cache", [False, True])
def test_dark_images_have_the_bits_of_their_dataset(tmp_path: Path, caplog, kind: str, cache: bool) -> None:
    """The bit depth is per dataset: if it were per image, dark images would become as bright as the others."""
    random = np.random.default_rng(1)
    limits = [200, 4096, 1000, 4096, 300]
    images = [random.integers(0, limit, (HEIGHT, WIDTH, 1)).astype(np.uint16) for limit in limits]
    root = deep_folder(tmp_path, images, kind)
    data = {"dataset": {"type": "ImageFolder", "images": "train", "cache": cache}}
    dataset = build_dataset(data, data_root=root, training=True)
    for index, values in enumerate(images):
        np.testing.assert_array_equal(dataset[(0, index)]["image"][0].numpy(), values[..., 0] >> 4)
    assert [record.message.count("0 … 4095") for record in caplog.records] == [1]
    small = {"pipeline": [{"type": "Resize", "size": [32, 32]}]}  # otherwise, images are predicted at 800 px
    config = {"model": {"type": "ImageClassifier", "backbone": "resnet20_cifar"}, "val_data": small}
    model = chordate.build_model(config, meta=dataset.meta)
    torch.save(checkpoint_of(model), tmp_path / "a.pt")
    model = chordate.build_model(config, checkpoint=tmp_path / "a.pt")
    (tmp_path / "other/a").mkdir(parents=True)
    (root / f"train/a/0.{kind}").rename(tmp_path / f"other/a/0.{kind}")  # evaluated and predicted without the others
    other = {"dataset": {"type": "ImageFolder", "images": "other"}}
    sample = build_dataset(other, data_root=root, training=False, meta=model.meta)[(0, 0)]
    np.testing.assert_array_equal(sample["image"][0].numpy(), images[0][..., 0] >> 4)
    eight = (images[0] >> 4).astype(np.uint8).repeat(3, 2)
    found, expected = chordate.predict(model, [tmp_path / f"other/a/0.{kind}", eight])
    assert torch.equal(found.scores, expected.scores)


def test_values_beyond_those_of_the_sampled_images_are_clipped_with_a_warning(tmp_path: Path, caplog) -> None:
    values = np.array([[[0], [1023], [1024], [5000]]], np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(png(values))
    assert read_image(path, white_level=1023)[0].tolist() == [[0, 255, 255, 255]]
    (report,) = (record.message for record in caplog.records)
    assert f"{path}: values above 1023, the white level of its dataset, are clipped" in report


@pytest.mark.parametrize("scale", [1, 255])
def test_dark_floats_have_the_range_of_their_dataset(tmp_path: Path, scale: int) -> None:
    images = [np.float32(np.linspace(0, limit, 12)).reshape(3, 4, 1) for limit in (0.3, scale)]
    data = {"dataset": {"type": "ImageFolder", "images": "train"}}
    dataset = build_dataset(data, data_root=deep_folder(tmp_path, images, "npy"), training=True)
    for index, values in enumerate(images):
        expected = np.rint(values[..., 0] * (255 / scale))
        np.testing.assert_array_equal(dataset[(0, index)]["image"][0].numpy(), expected)


def test_images_of_8_bits_have_no_white_level(tmp_path: Path) -> None:
    images = [np.full((HEIGHT, WIDTH, 3), 9, np.uint8)]
    data = {"dataset": {"type": "ImageFolder", "images": "train"}}
    for kind in ("png", "tif", "npy"):
        dataset = build_dataset(data, data_root=deep_folder(tmp_path / kind, images, kind), training=True)
        assert dataset.white_level is None and dataset.meta.white_level is None


def test_a_kind_of_file_is_reported_once(tmp_path: Path, caplog) -> None:
    values = np.full((HEIGHT, WIDTH, 1), 4000, np.uint16)
    for name in ("a.png", "b.png"):
        read(tmp_path / name, png(values))
    assert [record.message.split(":")[0] for record in caplog.records] == [f"{tmp_path}/a.png"]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_pngs_of_every_color_type_keep_their_upper_8_bits(tmp_path: Path, channels: int) -> None:
    values = np.random.default_rng(2).integers(0, 2**16, (HEIGHT, WIDTH, channels)).astype(np.uint16)
    values[0, 0, 0] = 2**16 - 1
    got = read(tmp_path / "a.png", png(values))
    wanted = values[..., :3] if channels >= 3 else values[..., :1].repeat(3, 2)
    np.testing.assert_array_equal(got, wanted >> 8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("top", [1.0, 255.0])
def test_float_tiffs_are_scaled_from_0_to_1_or_0_to_255(tmp_path: Path, top: float, order: str) -> None:
    values = np.random.default_rng(3).random((HEIGHT, WIDTH, 3)).astype(np.float32)
    values[0, 0] = 1
    got = read(tmp_path / "a.tif", tiff(values * np.float32(top), order=order))
    assert np.abs(got - values * 255.0).max() <= 0.501


@pytest.mark.parametrize("value", [-1.0, 256.0, np.nan, np.inf])
def test_floats_of_another_range_are_refused(tmp_path: Path, value: float) -> None:
    values = np.full((HEIGHT, WIDTH, 1), 0.5, np.float32)
    values[3, 4] = value
    assert "within 0 … 1 or 0 … 255" in error_line(tmp_path / "a.tif", tiff(values))


# Channels


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("bits", [8, 16])
def test_multi_band_tiffs_have_all_their_bands(tmp_path: Path, bands, channels: int, bits: int) -> None:
    wanted = bands[..., :channels]
    stored = wanted if bits == 8 else wanted.astype(np.uint16) * 256 + 77
    got = read(tmp_path / "a.tif", tiff(stored), channels)
    np.testing.assert_array_equal(got, stored if bits == 8 else stored >> 8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_arrays_have_any_number_of_channels(tmp_path: Path, bands, channels: int) -> None:
    array = io.BytesIO()
    np.save(array, bands[..., :channels])
    np.testing.assert_array_equal(read(tmp_path / "a.npy", array.getvalue(), channels), bands[..., :channels])


def test_an_array_of_objects_is_refused_without_unpickling(tmp_path: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "not a readable array" in error_line(tmp_path / "a.npy", array.getvalue())


def test_a_gray_model_reads_gray_and_color(tmp_path: Path, bands) -> None:
    gray, color = bands[..., :1], bands[..., :3]
    np.testing.assert_array_equal(read(tmp_path / "a.png", png(gray), 1), gray)
    luma = color @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert np.abs(read(tmp_path / "b.png", png(color), 1)[..., 0] - luma).max() <= 1


def test_alpha_is_the_fourth_channel_or_dropped(tmp_path: Path, bands) -> None:
    rgba = bands[..., :4]
    np.testing.assert_array_equal(read(tmp_path / "a.png", png(rgba), 4), rgba)
    np.testing.assert_array_equal(read(tmp_path / "a.png", png(rgba), 3), rgba[..., :3])


@pytest.mark.parametrize(("channels", "wanted"), [(1, 4), (3, 4), (3, 5), (5, 3), (7, 1), (5, 4)])
def test_other_numbers_of_channels_than_the_models_are_a_one_line_error(
    tmp_path: Path, bands, channels, wanted
) -> None:
    line = error_line(tmp_path / "a.tif", tiff(bands[..., :channels]), wanted)
    assert f"the image has {channels} channel" in line and f"the model takes {wanted}" in line
    assert "model.preprocess.mean" in line


# Palettes, frames, formats


@pytest.mark.parametrize("alpha", [b"", bytes([0, 128, 255])])
def test_a_palette_is_expanded_and_its_transparency_dropped(tmp_path: Path, alpha: bytes) -> None:
    colors = np.array([[250, 10, 20], [1, 2, 3], [90, 200, 7]], np.uint8)
    indices = np.random.default_rng(4).integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8)
    np.testing.assert_array_equal(read(tmp_path / "a.png", palette_png(indices, colors, alpha)), colors[indices])


def test_the_first_page_of_a_tiff_is_read_and_the_others_reported(tmp_path: Path, bands, caplog) -> None:
    got = read(tmp_path / "a.tif", tiff(bands[..., :3], bands[..., 3:6], bands[..., 1:4]))
    np.testing.assert_array_equal(got, bands[..., :3])
    assert "only the first of its 3 pages or frames is read" in caplog.text


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_the_first_frame_of_an_animation_is_read_and_the_others_reported(tmp_path: Path, caplog, kind: str) -> None:
    frames = [PIL.Image.new("RGB", (WIDTH, HEIGHT), color) for color in ((200, 30, 90), (0, 255, 0), (0, 0, 255))]
    content = io.BytesIO()
    options = {"lossless": True} if kind == "webp" else {}
    frames[0].save(content, kind, save_all=True, append_images=frames[1:], **options)
    got = read(tmp_path / f"a.{kind}", content.getvalue())
    np.testing.assert_array_equal(got, np.broadcast_to([200, 30, 90], got.shape))
    if kind != "png":  # OpenCV reads an APNG as a still PNG, so no other frames are reported
        assert "only the first of its 3 pages or frames is read" in caplog.text


@pytest.mark.parametrize(
    "kind",
    ["avif", "jp2", "jpx", "j2k", "webp", "bmp", "dib", "ppm", "pam", "ras", "tga", "pcx", "sgi", "qoi", "apng", "mpo"],
)
def test_every_listed_format_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind in ("pam", "ras"):  # Pillow does not write them
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), (90, 30, 200), np.uint8))
    else:
        options = {"webp": {"lossless": True}, "avif": {"quality": 100}}.get(kind, {})
        PIL.Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 90)).save(path, **options)
    got = read_image(path).permute(1, 2, 0).numpy().astype(int)
    assert f".{kind}" in SUFFIXES and got.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(got - [200, 30, 90]).max() <= (3 if kind in ("avif", "mpo") else 0)


def test_decoders_log_again_after_overlapping_reads(tmp_path: Path, bands) -> None:
    """The loggers belong to the user's process."""
    logger, level = logging.getLogger("tifffile"), cv2.utils.logging.getLogLevel()
    assert level > cv2.utils.logging.LOG_LEVEL_SILENT and logger.isEnabledFor(logging.WARNING)
    paths = [tmp_path / name for name in ("a.tif", "b.png")]
    for path, content in zip(paths, (tiff(bands)[:-60], png(bands[..., :3])[:100])):
        path.write_bytes(content)
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(read_image, path) for path in paths * 20]
    assert all(isinstance(read.exception(), BrokenFile | DataError) for read in reads)
    assert cv2.utils.logging.getLogLevel() == level and logger.isEnabledFor(logging.WARNING)


def test_a_broken_file_prints_nothing_but_the_error(tmp_path: Path, bands, capfd: pytest.CaptureFixture) -> None:
    data = tiff(bands[..., :3])
    for size in (8, len(data) // 2):
        (tmp_path / "a.tif").write_bytes(data[:size])
        with pytest.raises(BrokenFile):
            read_image(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


def test_heic_is_refused_with_the_remedy(tmp_path: Path) -> None:
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    assert "HEIC images are not supported; convert" in error_line(tmp_path / "a.heic", content)
    assert ".heic" in SUFFIXES


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "channels"), [("tif", 1), ("tif", 3), ("tif", 4), ("tif", 6), ("png", 1), ("png", 3), ("png", 4)]
)
def test_orientation_is_applied_to_every_kind(tmp_path: Path, bands, orientation, kind, channels) -> None:
    """EXIF's table: where row 0 and column 0 of the stored pixels are displayed."""
    stored = bands[..., :channels].astype(np.uint16) * 256 + 255
    displayed = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.transpose(1, 0, 2),
        6: stored.transpose(1, 0, 2)[:, ::-1], 7: stored.transpose(1, 0, 2)[::-1, ::-1],
        8: stored.transpose(1, 0, 2)[::-1],
    }[orientation]  # fmt: skip
    exif = PIL.Image.Exif()
    exif[0x112] = orientation
    exif_chunk = (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    content = tiff(stored, orientation=orientation) if kind == "tif" else png(stored, [exif_chunk])
    np.testing.assert_array_equal(read(tmp_path / f"a.{kind}", content, channels), displayed >> 8)
    if orientation >= 5:
        as_stored = read_image(tmp_path / f"a.{kind}", (HEIGHT, WIDTH), channels).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(as_stored, stored >> 8)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["gif", "tif", "avif", "jp2", "npy", "deep.png"])
def test_a_truncated_file_of_any_kind_is_an_error(tmp_path: Path, bands, share: float, kind: str) -> None:
    content = io.BytesIO()
    picture = PIL.Image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    if kind == "npy":
        np.save(content, bands)
    elif kind in ("tif", "deep.png"):
        content.write(tiff(bands[..., :3]) if kind == "tif" else png(bands[..., :3].astype(np.uint16) * 256 + 255))
    else:
        picture.save(content, {"jp2": "jpeg2000"}.get(kind, kind))
    data = content.getvalue()
    path = tmp_path / f"a.{kind}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BrokenFile, match="truncated"):
        read_image(path)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1), (2, 30000)])
def test_extreme_shapes_are_read(tmp_path: Path, height: int, width: int) -> None:
    pixels = np.random.default_rng(6).integers(0, 256, (height, width, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read(tmp_path / "a.png", png(pixels)), pixels)


# Folders


def test_a_folder_lists_every_readable_suffix_once(tmp_path: Path) -> None:
    files = [f"{number}{suffix}" for number, suffix in enumerate(SUFFIXES)] + ["b/x.JPG", "b/y.npy"]
    others = ["notes.txt", ".hidden.jpg", "__MACOSX/1.jpg", "b/x.npy", ".cache/1.jpg", "b/._x.jpg"]
    for name in (*files, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(tmp_path) == sorted(files)
