"""Class folders, zip files and CIFAR's original files: samples equal those of torchvision's datasets."""

import hashlib
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from class_folders import write_folders
from loading import open_loader

from chordate.data import CIFAR10, ImageFolder, ImageNet, TrainValFolder
from chordate.data.image_folder import imagenet_classes
from chordate.errors import ConfigError, DataError
from chordate.registry import DATASETS

PIPELINE = [{"type": "RandomResizedCrop", "size": 16}, {"type": "RandomHorizontalFlip"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("folders"), {"train": 4, "val": 2})


@pytest.fixture(scope="module")
def archive(folders, tmp_path_factory):
    return shutil.make_archive(str(tmp_path_factory.mktemp("zip") / "photos"), "zip", folders)


def same(a, b) -> bool:
    return torch.equal(a["image"], b["image"]) and a["label"] == b["label"]


def test_classes_and_order_equal_torchvisions(folders):
    ours, theirs = ImageFolder("train", data_root=folders), torchvision.datasets.ImageFolder(str(folders / "train"))
    assert list(ours.classes) == theirs.classes
    assert ours.labels.tolist() == theirs.targets
    assert [str(folders / "train" / file) for file in ours.files] == [path for path, _ in theirs.samples]
    image = np.asarray(theirs[5][0])
    assert torch.equal(ours[0, 5]["image"], torch.from_numpy(image.copy()).permute(2, 0, 1))


def test_a_zip_file_has_the_samples_of_the_folder(folders, archive):
    for data_root in (archive, archive.rsplit("/", 1)[0]):
        images = "train" if data_root == archive else "photos.zip/train"
        zipped, plain = (
            ImageFolder(path, data_root=root, pipeline=PIPELINE)
            for path, root in ((images, data_root), ("train", folders))
        )
        assert zipped.classes == plain.classes and len(zipped) == len(plain) == 12
        assert all(same(zipped[1, i], plain[1, i]) for i in range(12))


@pytest.mark.parametrize("source", ["folders", "archive"])
def test_a_sample_does_not_depend_on_the_workers_or_the_cache(source, request):
    root = request.getfixturevalue(source)
    batches = []
    for workers, cache in ((0, False), (2, False), (0, True)):
        config = {
            "dataset": {"type": "ImageFolder", "images": "train", "cache": cache},
            "pipeline": PIPELINE, "batch_size": 4, "workers": workers,
        }  # fmt: skip
        loader = open_loader(config, data_root=root, training=True, seed=3, size_divisor=1)
        batches.append([(batch.images, batch.targets.labels) for batch in loader])
    for other in batches[1:]:
        assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(batches[0], other, strict=True))
    assert batches[0][0][0].shape == (4, 3, 16, 16)


def test_classes_may_be_chosen_and_ordered(folders):
    dataset = ImageFolder("val", data_root=folders, classes=["red", "blue"])
    assert dataset.classes == ("red", "blue") and len(dataset) == 4
    assert "red" in dataset.files[0] and dataset.labels.tolist() == [0, 0, 1, 1]
    assert [len(images) for images in dataset.class_images()] == [2, 2]
    with pytest.raises(DataError, match='unknown class folder "rad"; did you mean "red"'):
        ImageFolder("val", data_root=folders, classes=["rad"])


def test_images_may_lie_in_subfolders_of_their_class(tmp_path):
    write_folders(tmp_path / "cats/red", {"old": 1, "new": 1})
    dataset = ImageFolder("cats", data_root=tmp_path)
    assert dataset.classes == ("red",) and len(dataset) == 6
    assert dataset.files[0] == "red/new/blue/0.png" and dataset[0, 0]["image"].shape == (3, 24, 24)


def test_a_split_of_imagenets_layout_is_read(folders):
    assert len(ImageNet("val", data_root=folders)) == 6


def test_imagenets_1000_folders_have_their_classes_names(tmp_path):
    """Classes are sorted by WordNet id, as in torchvision's and timm's weights: class 0 is n01440764, the tench."""
    for number in range(1000):
        folder = tmp_path / f"val/n{1440764 + 7 * number:08d}"
        folder.mkdir(parents=True)
        (folder / "1.JPEG").touch()
    dataset = ImageNet("val", data_root=tmp_path)
    assert dataset.classes == imagenet_classes()
    assert dataset.classes[:2] == ("tench", "goldfish") and dataset.classes[-1] == "toilet tissue"
    assert dataset.files[0] == "n01440764/1.JPEG" and dataset.labels.tolist() == list(range(1000))
    chosen = ImageNet("val", data_root=tmp_path, classes=["goldfish", "tench"])
    assert chosen.files == ["n01440771/1.JPEG", "n01440764/1.JPEG"]


def test_hidden_files_and_system_folders_are_neither_images_nor_classes(folders, tmp_path):
    shutil.copytree(folders / "train", tmp_path / "train")
    for folder in ("train/.ipynb_checkpoints", "train/red/.ipynb_checkpoints"):
        (tmp_path / folder).mkdir()
        shutil.copy(tmp_path / "train/red/0.png", tmp_path / folder / "0.png")
    (tmp_path / "train/red/._0.png").write_bytes(b"macOS")
    zipped = shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path, "train")
    with zipfile.ZipFile(zipped, "a") as file:
        file.writestr("__MACOSX/red/0.png", b"macOS")
    for dataset in (ImageFolder("train", data_root=tmp_path), ImageFolder("train", data_root=zipped)):
        assert dataset.classes == ("blue", "green", "red") and len(dataset) == 12


def test_train_and_val_folders_are_the_splits(folders, archive):
    for root in (folders, archive):
        train, val = (TrainValFolder(split, data_root=root) for split in ("train", "val"))
        assert (len(train), len(val)) == (12, 6) and train.classes == val.classes


def test_without_a_split_a_fraction_of_every_class_is_held_out(tmp_path):
    """The splits are disjoint and together contain all images; adding an image moves at most one other out of val."""
    write_folders(tmp_path, {"photos": 40})
    root = tmp_path / "photos"

    def part(split, root=root):
        return set(TrainValFolder(split, data_root=root, held_out=0.25).files)

    before = part("val")
    assert len(before) == 30 and sum(file.startswith("red") for file in before) == 10
    assert not before & part("train") and len(before | part("train")) == 120
    assert part("val", shutil.make_archive(str(tmp_path / "zipped"), "zip", root)) == before
    shutil.copy(root / "red/0.png", root / "red/new.png")
    assert len(before - part("val")) <= 1


def test_the_smallest_class_keeps_a_training_image(tmp_path):
    for count, name in enumerate(("one", "two"), 1):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / f"{name}/{number}.png").touch()
    train, val = (TrainValFolder(split, data_root=tmp_path) for split in ("train", "val"))
    assert train.labels.tolist() == [0, 1] and val.labels.tolist() == [1]
    assert val.classes == ("one", "two")


@pytest.mark.parametrize("layout", [("cats",), ("train", "val")])
def test_a_single_outer_folder_is_skipped(layout, tmp_path):
    """`zip -r my.zip my` creates this layout, and macOS adds files; the samples equal those of the inner folder."""
    inner = write_folders(tmp_path / "my", dict.fromkeys(layout, 10))
    inner = inner if "train" in layout else inner / layout[0]
    (tmp_path / "my/.git").mkdir()
    zipped = shutil.make_archive(str(tmp_path / "my"), "zip", tmp_path, "my")
    with zipfile.ZipFile(zipped, "a") as file:
        file.writestr("__MACOSX/my/._a.png", b"macOS")
    for split in ("train", "val"):
        bare = TrainValFolder(split, data_root=inner)
        assert bare.classes == ("blue", "green", "red")
        for root in (tmp_path / "my", zipped, f"{zipped}/my"):
            around = TrainValFolder(split, data_root=root)
            assert around.classes == bare.classes and all(same(around[0, i], bare[0, i]) for i in range(len(bare)))
            assert len(around) == len(bare)


def test_a_single_class_folder_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    for number in range(3):
        (tmp_path / f"cat/{number}.png").touch()
    with pytest.raises(DataError, match="only one class folder, cat/; a classifier needs two or more"):
        TrainValFolder("train", data_root=tmp_path)


def test_images_of_classes_that_the_model_lacks_are_skipped_with_a_warning(folders, caplog):
    ImageFolder("train", data_root=folders)
    assert not caplog.messages
    ImageFolder("train", data_root=folders, classes=["red"])
    assert caplog.messages == [
        f"{folders}/train: images of classes not in the model (it has 1) are ignored: blue (4), green (4)"
    ]


def test_a_train_folder_without_a_val_folder_is_refused(tmp_path):
    write_folders(tmp_path, {"train": 1, "test": 1})
    with pytest.raises(DataError, match=r"has test/, train/ but no val/; create train/ and val/"):
        TrainValFolder("train", data_root=tmp_path)
    write_folders(tmp_path / "vehicles", {"train": 1, "car": 1})  # here, `train` is the class of railway trains
    assert TrainValFolder("train", data_root=tmp_path / "vehicles").classes == ("car", "train")
    with pytest.raises(ConfigError, match='split must be one of "train", "val", got "test"'):
        DATASETS.build({"type": "TrainValFolder", "split": "test"}, data_root=tmp_path)
    with pytest.raises(ConfigError, match="held_out must be > 0 and < 1, got 1"):
        DATASETS.build({"type": "TrainValFolder", "split": "val", "held_out": 1}, data_root=tmp_path)


def test_missing_or_broken_class_folders_are_refused(folders, archive, tmp_path):
    with pytest.raises(DataError, match=r"no such folder with one subfolder per class; .* has train, val"):
        ImageFolder("test", data_root=folders)
    with pytest.raises(DataError, match=r"no class folders; .*photos\.zip has train, val"):
        ImageFolder("test", data_root=archive)
    (tmp_path / "empty/cat").mkdir(parents=True)
    with pytest.raises(DataError, match="no images"):
        ImageFolder("empty", data_root=tmp_path)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(Path(archive).read_bytes()[:500])
    with pytest.raises(DataError, match="not a zip, or truncated"):
        ImageFolder("train", data_root=cut)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr("train/cat/a.png", b"no picture")
    with pytest.raises(DataError, match=r"bad\.zip/train/cat/a\.png: not a readable image"):
        ImageFolder("train", data_root=tmp_path / "bad.zip")[0, 0]


def test_a_damaged_or_encrypted_member_of_a_zip_is_named(folders, tmp_path):
    shutil.copytree(folders / "train/red", tmp_path / "in/red")
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path / "in"))
    with zipfile.ZipFile(archive) as file:
        first = min((i for i in file.infolist() if i.filename.endswith("png")), key=lambda info: info.filename)
    whole = archive.read_bytes()
    data = first.header_offset + 30 + len(first.filename)
    archive.write_bytes(whole[:data] + bytes(b ^ 0xFF for b in whole[data : data + 20]) + whole[data + 20 :])
    with pytest.raises(DataError, match=r"photos\.zip/red/0\.png: cannot be read from the zip"):
        ImageFolder(".", data_root=archive)[0, 0]
    locked = bytearray(whole)
    locked[first.header_offset + 6] |= 1  # sets the encryption flag here, and in the central directory below
    entry = whole.index(b"PK\x01\x02")
    while whole[entry + 46 :].startswith(first.filename.encode()) is False:
        entry = whole.index(b"PK\x01\x02", entry + 4)
    locked[entry + 8] |= 1
    archive.write_bytes(locked)
    with pytest.raises(DataError, match=r"cannot be read from the zip: .*encrypted"):
        ImageFolder(".", data_root=archive)[0, 0]


def test_images_of_several_sizes_in_a_classification_batch_are_refused(folders):
    config = {"dataset": {"type": "ImageFolder", "images": "train"}, "batch_size": 4, "workers": 0}
    with pytest.raises(DataError, match="CenterCrop"):
        list(open_loader(config, data_root=folders, training=True, seed=0))


def write_cifar(root, monkeypatch) -> np.ndarray:
    """Write a small CIFAR-10 in the official layout, patch torchvision's checksums, return images `[30, 3, 32, 32]`."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (30, 3, 32, 32), dtype=np.uint8)
    names, sums = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], {}
    for number, name in enumerate(names):
        rows = pictures[5 * number : 5 * number + 5].reshape(5, -1)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": [number, 9, 0, 1, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    for name in [*names, "batches.meta"]:
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    official = torchvision.datasets.CIFAR10
    monkeypatch.setattr(official, "train_list", [[name, sums[name]] for name in names[:5]])
    monkeypatch.setattr(official, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(
        official, "meta", {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    )
    return pictures


def test_cifars_official_files_are_read_as_torchvision_reads_them(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    zipped = shutil.make_archive(str(tmp_path / "cifar"), "zip", tmp_path, "cifar-10-batches-py")
    for split in ("train", "test"):
        theirs = torchvision.datasets.CIFAR10(str(tmp_path), train=split == "train")
        ours = CIFAR10(split, data_root=tmp_path)
        assert list(ours.classes) == theirs.classes
        assert sorted(ours.labels.tolist()) == sorted(theirs.targets)
        for i, file in enumerate(ours.files):
            image, label = theirs[int(file[-5:])]
            assert torch.equal(ours[0, i]["image"], torch.from_numpy(np.array(image)).permute(2, 0, 1))
            assert ours[0, i]["label"] == label
        in_zip = CIFAR10(split, data_root=zipped)
        assert in_zip.classes == ours.classes and all(same(in_zip[0, i], ours[0, i]) for i in range(len(ours)))


def test_a_damaged_official_file_is_never_unpickled(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    with open(tmp_path / "cifar-10-batches-py/test_batch", "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="missing or damaged"):
        CIFAR10("test", data_root=tmp_path)


def test_cifar_in_another_folder_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"neither cifar-10-batches-py/ nor train/"):
        CIFAR10("train", data_root=tmp_path)
    with pytest.raises(ConfigError, match='split must be one of "train", "test", got "val"'):
        DATASETS.build({"type": "CIFAR10", "split": "val"}, data_root=tmp_path)


def test_the_real_cifar_as_a_zip_has_all_images(real_data):
    dataset = CIFAR10("test", data_root=real_data / "cifar10.zip")
    assert len(dataset) == 10_000 and np.bincount(dataset.labels).tolist() == [1000] * 10
    assert json.dumps(dataset.classes[:2]) == '["airplane", "automobile"]'
