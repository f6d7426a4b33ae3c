"""Loaders yield the same padded batches with any number of workers, and raise one-line errors."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from loading import open_loader
from mmengine.config import Config
from processes import forkserver
from tiny_coco import annotation, write_coco
from torch.utils.data import DataLoader

from chordate.data import CocoDataset
from chordate.data.seeding import seeded
from chordate.errors import ConfigError, DataError
from chordate.structures import Batch, DatasetMeta
from chordate.structures.detection import slots_for

SIZES = tuple((60, 80) if number % 3 else (80, 60) for number in range(11))
PIPELINE = [
    {"type": "ResizeShortestEdge", "size": [48, 56, 64]},
    {"type": "RandomHorizontalFlip", "p": 0.5},
    {"type": "RandomPhotometricDistort", "p": 0.5},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    square = [[10, 10, 30, 10, 30, 30, 10, 30]]
    boxes = [annotation(n, n, [10, 10, 20, 20], segmentation=square) for n in range(1, len(SIZES))]
    return write_coco(tmp_path, boxes, sizes=SIZES)


def settings(**changed) -> dict:
    dataset = {"type": "CocoDataset", "annotations": "annotations.json", "images": "images", "masks": True}
    return {"dataset": dataset, "pipeline": PIPELINE, "batch_size": 3, "workers": 0, **changed}


def load(root: Path, *, training: bool = True, epoch: int = 0, start: int = 0, seed: int = 0, **changed) -> list[Batch]:
    loader = open_loader(settings(**changed), data_root=root, training=training, seed=seed)
    loader.start_epoch(epoch, start)
    return list(loader)


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert a.infos == b.infos
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.sizes, b.sizes)
        for name, value in vars(a.targets).items():
            assert value is None or torch.equal(value, getattr(b.targets, name))


def test_a_batch_is_padded_and_has_the_sizes_and_infos_of_its_images(root: Path) -> None:
    loader = open_loader(settings(batch_size=2, pipeline=[]), data_root=root, training=False, seed=0)
    for batch in loader:
        count = len(batch)
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape[1] == 3
        assert all(side % 32 == 0 for side in batch.images.shape[2:])
        assert batch.targets.boxes.shape == (count, 8, 4)
        assert batch.targets.masks.shape == (count, 8, 112, 112)
        for index, info in enumerate(batch.infos):
            height, width = batch.sizes[index].tolist()
            assert (height, width) == (info.height, info.width) == SIZES[info.image_id - 1]
            picture = loader.dataset[(0, info.image_id - 1)]["image"]
            assert torch.equal(batch.images[index, :, :height, :width], picture)
            assert batch.images[index, :, height:].sum() == batch.images[index, :, :, width:].sum() == 0
            instances = int(info.image_id < len(SIZES))
            assert batch.targets.valid[index].sum() == instances
            assert batch.targets.boxes[index].sum() == instances * 80
            assert batch.targets.masks[index].float().mean(dim=(1, 2)).sum() == instances


@pytest.mark.parametrize(("most", "slots"), [(0, 8), (8, 8), (9, 16), (64, 64), (65, 128), (129, 256), (300, 384)])
def test_the_padded_number_of_targets_has_few_different_values(most: int, slots: int) -> None:
    assert slots_for(most) == slots


def test_float_images_stay_float(root: Path) -> None:
    resize = {"type": "ResizeShortestEdge", "size": 50, "rounding": "torchvision"}
    batch = load(root, pipeline=[resize])[0]
    assert batch.images.dtype == torch.float32
    assert batch.images.max() > 200


def test_a_sample_is_the_same_whatever_the_number_of_workers(root: Path) -> None:
    expected = load(root, epoch=3)
    assert_same(load(root, epoch=3, workers=2), expected)
    assert_same(load(root, epoch=3, workers=1, start=2), expected[2:])


def test_augmentation_differs_between_epochs_and_between_seeds(root: Path) -> None:
    dataset = open_loader(settings(), data_root=root, training=True, seed=0).dataset
    pictures = [dataset[(epoch, 0)]["image"] for epoch in range(5)]
    assert len({picture.float().mean().item() for picture in pictures}) > 2
    assert torch.equal(pictures[3], dataset[(3, 0)]["image"])
    other = open_loader(settings(), data_root=root, training=True, seed=1).dataset
    assert any(not torch.equal(other[(epoch, 0)]["image"], pictures[epoch]) for epoch in range(5))


def test_persistent_workers_use_the_new_epoch(root: Path) -> None:
    loader = open_loader(settings(workers=1), data_root=root, training=True, seed=0)
    for epoch in (0, 5):
        loader.start_epoch(epoch)
        assert_same(list(loader), load(root, epoch=epoch))


def test_loading_leaves_the_global_random_state_unchanged(root: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    load(root)
    load(root, workers=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_seeded_numbers_depend_on_every_part_of_the_key() -> None:
    def draw(*key: int) -> tuple:
        with seeded(*key):
            return float(torch.rand(())), float(np.random.rand())

    keys = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 1, 1), (0, 0, 2)]
    assert len({draw(*key) for key in keys}) == len(keys)
    assert draw(3, 1, 4) == draw(3, 1, 4)


def test_each_image_is_loaded_by_one_rank(root: Path) -> None:
    ids = []
    for rank in range(2):
        loader = open_loader(settings(), data_root=root, training=False, seed=0, rank=rank, world_size=2)
        ids += [info.image_id for batch in loader for info in batch.infos]
    assert sorted(ids) == list(range(1, len(SIZES) + 1))


def test_wide_and_tall_images_are_in_separate_batches(root: Path) -> None:
    batches = load(root, batch_size=2)
    kinds = [{info.height > info.width for info in batch.infos} for batch in batches]
    assert sum(len(kind) > 1 for kind in kinds) <= 1
    mixed = load(root, batch_size=4, group_by_aspect=False)
    assert any(len({info.height > info.width for info in batch.infos}) > 1 for batch in mixed)


def test_rare_classes_are_repeated_if_configured(tmp_path: Path) -> None:
    boxes = [annotation(n, n, [10, 10, 20, 20], category=7 if n == 1 else 3) for n in range(1, 12)]
    dataset = {**settings()["dataset"], "masks": False}
    batches = load(write_coco(tmp_path, boxes, sizes=SIZES), class_balanced=0.99, dataset=dataset)
    seen = [info.image_id for batch in batches for info in batch.infos]
    assert seen.count(1) in (3, 4)  # its repeat factor is sqrt(0.99 / (1 / 11)) = 3.3
    assert set(seen) == set(range(1, 12))


def test_a_worker_loads_another_batch_after_sigterm_and_exits_later(root: Path, monkeypatch) -> None:
    """After SIGTERM a worker keeps loading, as the trainer may need another batch; it exits `GRACE` seconds later."""
    monkeypatch.setattr("chordate.data.loader.GRACE", 2)
    loader = open_loader(settings(batch_size=1, workers=1), data_root=root, training=True, seed=0)
    others = set(multiprocessing.active_children())
    batches = iter(loader)
    next(batches)
    [worker] = set(multiprocessing.active_children()) - others
    worker.terminate()
    next(batches)
    assert worker.is_alive()
    with contextlib.suppress(RuntimeError):  # torch may report the exit of a worker as an error
        worker.join(20)
    assert worker.exitcode == -signal.SIGALRM


def test_an_error_in_a_worker_is_a_one_line_error(root: Path) -> None:
    (root / "images" / "4.png").unlink()
    for workers in (0, 1):
        with pytest.raises(DataError) as error:
            load(root, workers=workers)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(f"{root}/images/4.png: no such image file")


@pytest.mark.parametrize(
    ("annotations", "remedy"),
    [
        ([], "annotate some images"),
        ([annotation(1, 1, [10, 10, 20, 20], iscrowd=1)], "only 1 crowd .* set iscrowd to 0"),
    ],
)
def test_training_data_without_instances_is_refused_with_the_files_name(
    tmp_path: Path, annotations: list, remedy: str
) -> None:
    dataset = {**settings()["dataset"], "masks": False}
    write_coco(tmp_path, annotations)
    with pytest.raises(DataError, match=rf"annotations\.json: 2 images, but no instance of cat, dog, .*{remedy}"):
        load(tmp_path, dataset=dataset)


def test_evaluation_data_without_annotations_is_accepted_with_a_warning(tmp_path: Path, caplog) -> None:
    dataset = {**settings()["dataset"], "masks": False}
    assert len(load(write_coco(tmp_path, []), training=False, dataset=dataset)) == 1
    load(write_coco(tmp_path, [annotation(1, 1, [10, 10, 20, 20])]), training=False, dataset=dataset)
    lines = [message for message in caplog.messages if "no instance of" in message]
    assert len(lines) == 1
    assert "annotations.json: 2 images, but no instance of cat, dog; there is no ground truth" in lines[0]


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([{"type": "RandomCrop", "size": 500}], "RandomCrop failed: ValueError: .*500"),
        ([{"type": "CenterCrop", "size": 0}], r"CenterCrop failed: ValueError: its image has no pixels"),
        ([{"type": "ToDtype", "dtype": "float32"}, {"type": "JPEG", "quality": 50}], "JPEG failed: RuntimeError: "),
        (
            [{"type": "RandomCrop", "size": 8}, {"type": "SanitizeBoundingBoxes", "min_size": 50}],
            "0 boxes, 0 labels, 1 crowd, .*use SanitizeInstances, .* instead of SanitizeBoundingBoxes",
        ),
    ],
)
def test_an_error_in_a_transform_names_the_transform_and_the_image(root: Path, transforms: list, message: str) -> None:
    for workers in (0, 1):
        with pytest.raises(DataError, match=rf"^{root}/images/\d+\.png: .*{message}") as error:
            load(root, pipeline=transforms, workers=workers)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bacth_size": 2}, 'unknown setting of train_data "bacth_size"; did you mean "batch_size"'),
        ({"batch_size": 0}, "train_data.batch_size must be ≥ 1, got 0"),
        ({"workers": -1}, "train_data.workers must be ≥ 0, got -1"),
        ({"dataset": {"type": "CocoDatset"}}, 'unknown dataset "CocoDatset"; did you mean "CocoDataset"'),
        ({"dataset": {"type": "CocoDataset", "annotation": "x"}}, "CocoDataset.*annotation"),
        ({"dataset": {"type": "CocoDataset", "seed": 3}}, "seed is set automatically"),
    ],
)
def test_an_invalid_setting_of_the_loader_is_a_config_error(root: Path, changed: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(root, **changed)


def test_a_training_setting_is_unknown_in_val_data(root: Path) -> None:
    with pytest.raises(ConfigError, match='unknown setting of val_data "group_by_aspect"'):
        load(root, training=False, group_by_aspect=True)
    with pytest.raises(ConfigError, match='val_data has no "dataset"'):
        open_loader({"batch_size": 1}, data_root=root, training=False, seed=0)


def test_labels_are_in_the_order_of_the_models_classes(root: Path) -> None:
    def build(of_model, **dataset):
        config = settings(dataset={**settings()["dataset"], **dataset})
        return open_loader(config, data_root=root, training=False, meta=DatasetMeta(of_model)).dataset

    assert build(("dog", "cat")).category_ids == [7, 3]
    assert build(("dog",), classes=["dog"]).category_ids == [7]
    assert build(("cat",)).category_ids == [3]
    with pytest.raises(DataError, match='all classes of the model .*: .*unknown class "cats"; did you mean "cat"'):
        build(("dog", "cats"))
    with pytest.raises(DataError, match=r"all classes of the model \(dog, cat\): this dataset sets classes to dog;"):
        build(("dog", "cat"), classes=["dog"])


def test_a_missing_data_root_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data-root.*CHORDATE_DATA"):
        load(tmp_path / "nowhere")


def test_a_worker_that_inherits_no_memory_reads_the_annotations_itself(root: Path) -> None:
    dataset = CocoDataset("annotations.json", "images", data_root=root, masks=True)
    assert b"annotations.json" in pickle.dumps(dataset)
    loader = DataLoader(
        dataset,
        batch_sampler=[[(0, 0), (0, 3)]],
        collate_fn=dataset.collate,
        num_workers=1,
        multiprocessing_context=forkserver(),
    )
    assert_same(list(loader), [dataset.collate([dataset[(0, 0)], dataset[(0, 3)]])])


def test_sample_fields_of_different_lengths_are_refused(root: Path) -> None:
    dataset = CocoDataset("annotations.json", "images", data_root=root)
    sample = dataset[(0, 0)]
    with pytest.raises(DataError, match=r"1\.png: after the pipeline .* 1 boxes, 0 labels"):
        dataset.collate([{**sample, "labels": sample["labels"][:0]}])


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("coco_detection", "coco-mini"),
        ("coco_detection_multiscale", "coco-mini"),
        ("coco_detection_lsj", "coco-mini"),
        ("bccd_detection", "bccd"),
    ],
)
def test_the_data_configs_load_real_data(real_data: Path, name: str, folder: str) -> None:
    config = Config.fromfile(Path(__file__).parents[1] / f"configs/_base_/datasets/{name}.py")
    shared = {"data_root": real_data / folder, "seed": 0}
    train = open_loader({**config.train_data, "workers": 0}, training=True, **shared)
    val = open_loader({**config.val_data, "workers": 0}, training=False, meta=train.dataset.meta, **shared)
    assert len(train) > 20
    assert len(val) > 70
    for loader in (train, val):
        batch = next(iter(loader))
        assert batch.targets.valid.any()
        assert batch.images.float().std() > 20


def test_the_data_config_of_bccd_loads_its_photos(cells: Path) -> None:
    config = Config.fromfile(Path(__file__).parents[1] / "configs/_base_/datasets/bccd_detection.py")
    voc = {"type": "VocDataset", "folder": "."}
    for data, split in ((config.train_data, "train"), (config.val_data, "val")):
        data = {**data, "dataset": {**voc, "split": split}, "batch_size": 1, "workers": 0}
        batches = list(open_loader(data, data_root=cells, training=split == "train", seed=0))
        assert len(batches) == {"train": 4, "val": 2}[split]
        for batch in batches:
            assert batch.targets.valid.any()
            assert batch.images.float().std() > 10
            assert batch.sizes.amin() in range(320, 481) and batch.sizes.amax() <= 640


def test_a_loader_has_no_more_workers_than_cores(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    cores = len(os.sched_getaffinity(0))
    with caplog.at_level("INFO", "chordate"), warnings.catch_warnings():
        warnings.simplefilter("error")  # torch would warn of too many workers
        assert open_loader(settings(workers=cores), data_root=root, training=True).num_workers == cores
        assert not caplog.messages
        loader = open_loader(settings(workers=cores + 1), data_root=root, training=True)
    assert loader.num_workers == cores
    message = f"train_data.workers={cores + 1}: only {cores} are started, one per available CPU core"
    assert caplog.messages == [message]
