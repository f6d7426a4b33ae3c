"""With masks=True, objects without a usable mask contribute only their boxes; they do not become crowds."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_mutants import HEIGHT, WIDTH, changed, clean_content, open_set, write_content, write_images
from detection_toys import feature_maps, pyramid
from pycocotools import mask as rle
from test_mask_head import CLASSES, scene

from chordate.data import coco_annotations
from chordate.data.loader import build_dataset
from chordate.errors import DataError
from chordate.evaluation import CocoMetric
from chordate.heads import MaskHead

UNUSABLE = {
    "missing": ...,
    "null": None,
    "empty": [],
    "an empty polygon": [[]],
    "two points": [[5, 6, 14, 15]],
    "odd": [[5, 6, 20, 6, 20, 18, 5]],
    "a line": [[5, 6, 20, 18, 5, 6, 20, 18]],
    "a point": [[5, 6] * 4],
    "outside the box": [[60, 50, 75, 50, 75, 58]],
    "RLE without pixels": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("masks"))


@pytest.mark.parametrize("segmentation", UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("pipeline", [(), ({"type": "RandomHorizontalFlip", "p": 1.0},)], ids=["plain", "flipped"])
def test_an_object_without_a_usable_mask_keeps_its_box_and_is_no_crowd(root, segmentation, pipeline):
    write_content(root, changed("annotations", 0, segmentation=segmentation))
    sample = open_set(root, masks=True, pipeline=pipeline)[(0, 0)]
    assert sample["crowd"].tolist() == [False] * 3
    assert sample["has_mask"].tolist() == [False, True, True]
    assert sample["labels"].tolist() == [0, 1, 2]
    x = 5 if not pipeline else WIDTH - 20
    assert sample["boxes"][0].tolist() == [x, 6, x + 15, 18]
    assert [float(mask.float().mean()) for mask in sample["masks"]] == [0, 1, 1]
    assert open_set(root, masks=True).collate([sample]).targets.has_mask[0, :4].tolist() == [False, True, True, False]


def test_the_report_counts_the_objects_without_a_mask(root):
    content = changed("annotations", slice(1, 4), segmentation=[[5, 6, 14, 15]])
    content["annotations"][0]["segmentation"] = None
    report = open_set(write_content(root, content), masks=True).health_report
    assert any("4 of 11 objects have no usable mask" in line and "(id 1, 2, 3, 4)" in line for line in report)
    report = open_set(root, masks=True, classes=["gamma"]).health_report
    assert any("1 of 3 objects have no usable mask" in line and "(id 3)" in line for line in report)


@pytest.mark.parametrize("seed", range(8))
def test_the_count_at_opening_is_that_of_the_samples(root, seed):
    """Masks are polygons or RLEs; some lie outside their boxes or at the image border, and some have no area."""
    random = np.random.default_rng(seed)
    content = clean_content()
    objects = []
    for id in range(1, 201):
        x, y, w, h = (int(side) for side in random.integers((-20, -20, 0, 0), (90, 70, 30, 30)))
        left, top, right, bottom = (int(side) for side in random.integers((0, 0, 1, 1), (70, 50, 10, 10)))
        kind = ["polygon", "line", "bowtie", "text", "runs"][id % 5]
        bitmap = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
        bitmap[top : top + bottom, left : left + right] = 1
        runs = np.diff(np.flatnonzero(np.diff(np.r_[2, bitmap.ravel("F"), 2]))).tolist()
        segmentation = {
            "polygon": [[left, top, left + right, top, left + right, top + bottom]],
            "line": [[left, top, left + right, top + bottom, left, top]],
            "bowtie": [[left, top, left + 8, top + 8, left + 8, top, left, top + 8]],
            "text": {"size": [HEIGHT, WIDTH], "counts": rle.encode(bitmap)["counts"].decode()},
            "runs": {"size": [HEIGHT, WIDTH], "counts": runs if not bitmap[0, 0] else [0, *runs]},
        }[kind]
        ids = {"id": id, "image_id": 1 + id % 4, "category_id": 1}
        objects.append({**ids, "bbox": [x, y, w, h], "iscrowd": int(id % 7 == 0), "segmentation": segmentation})
    dataset = open_set(write_content(root, {**content, "annotations": objects}), masks=True, health="warn")
    samples = [dataset.read(index) for index in range(len(dataset))]
    count = sum(int((~sample["crowd"]).sum()) for sample in samples)
    without = sum(int((~sample["crowd"] & ~sample["has_mask"]).sum()) for sample in samples)
    assert 0 < without < count
    assert any(f"{without} of {count} objects have no usable mask" in line for line in dataset.health_report)


@pytest.mark.parametrize(
    "segmentation",
    [None, [], [[5, 6, 14, 15]], [[5, 6, 20, 6, 20, 18, 5]], [[5, 6], [20, 6], [20, 18]], [{"x": 5, "y": 6}]],
)
def test_masks_without_any_usable_mask_are_an_error_at_opening(root, segmentation):
    write_content(root, changed("annotations", segmentation=segmentation))
    assert len(open_set(root)) == 4
    with pytest.raises(DataError) as error:
        open_set(root, masks=True)
    assert "no object has a usable mask (11 objects, the first: annotation 1" in str(error.value)
    reason = f"not three or more points x1, y1, x2, y2, …, which is ignored: {segmentation} (id 1, 2"
    assert (reason in str(error.value)) == bool(segmentation)


@pytest.mark.parametrize(("masks", "classes"), [(slice(6, 12), None), (slice(11, 12), None), (slice(8, 9), ["gamma"])])
def test_masks_after_the_first_images_of_a_very_large_file_are_enough(root, monkeypatch, masks, classes):
    """The images that are checked on opening have no masks; later images have some."""
    monkeypatch.setattr(coco_annotations, "CHECKED_ANNOTATIONS", 5)
    monkeypatch.setattr(coco_annotations, "CHECKED_IMAGES", 2)
    content = changed("annotations", segmentation=None)
    for annotation, clean in zip(content["annotations"][masks], clean_content()["annotations"][masks]):
        annotation["segmentation"] = clean["segmentation"]
    content["annotations"][-1]["iscrowd"] = 0
    dataset = open_set(write_content(root, content), masks=True, classes=classes)
    (line,) = dataset.health_report
    count = 2 if classes else 6
    assert f"{count} of {count} objects of the first 2 images have no usable mask" in line
    assert any(dataset[(0, index)]["has_mask"].any() for index in (2, 3))
    write_content(root, changed("annotations", segmentation=None))
    with pytest.raises(DataError, match=r"no object has a usable mask \(11 objects, the first: annotation 1\)"):
        open_set(root, masks=True)


def test_masks_that_cannot_be_evaluated_are_an_error_before_training(root):
    data = {"dataset": {"type": "CocoDataset", "annotations": "annotations.json", "images": "images"}}
    write_content(root, changed("annotations", 4, segmentation=[[5, 6, 14, 15]]))
    with pytest.raises(DataError, match="1 of 12 annotations have no segmentation"):
        CocoMetric(build_dataset(data, data_root=root, training=False), iou_types=["segm"])
    write_content(root, changed("annotations", 4, segmentation={"size": [HEIGHT, 9], "counts": [9]}))
    with pytest.raises(DataError, match=r"RLE .* does not fit its image: 9×60 px in an image of 80×60 px \(id 5\)"):
        build_dataset(data, data_root=root, training=False)


def test_copy_paste_pastes_no_object_without_a_mask(root):
    write_content(
        root, changed("annotations", slice(0, 11), segmentation=lambda a: [] if a["id"] % 3 else a["segmentation"])
    )
    dataset = open_set(root, masks=True, pipeline=[{"type": "CopyPaste"}], seed=3)
    for epoch in range(8):
        sample = dataset[(epoch, 0)]
        own = sample["labels"] < 2  # classes of objects without masks
        assert int(own.sum()) == 2 and not sample["has_mask"][own].any()
        assert sample["has_mask"][~own].all()


def test_only_known_masks_contribute_to_the_loss():
    rois, targets = scene()
    head, maps = MaskHead(pyramid(), CLASSES, channels=16), feature_maps(128, images=1)
    both = head.loss(maps, rois, targets)["mask"]
    targets.has_mask = torch.ones_like(targets.valid)
    torch.testing.assert_close(head.loss(maps, rois, targets)["mask"], both)
    alone = copy.deepcopy(rois)
    alone.is_foreground[0, 1] = False
    wanted = head.loss(maps, alone, targets)["mask"]
    targets.has_mask[0, 1] = False
    targets.masks[0, 1] = 0
    torch.testing.assert_close(head.loss(maps, rois, targets)["mask"], wanted)
    targets.has_mask[:] = False
    loss = head.loss(maps, rois, targets)["mask"]
    loss.backward()
    assert loss == 0 and not head.masks.weight.grad.any()


def test_the_mask_loss_compiles_to_one_graph_with_unknown_masks():
    """Without data-dependent shapes, unknown masks cause no host sync on a GPU."""
    rois, targets = scene()
    targets.has_mask = torch.zeros_like(targets.valid)
    targets.has_mask[0, 0] = True
    head, maps = MaskHead(pyramid(), CLASSES, channels=16, sampling_ratio=2), feature_maps(128, images=1)
    compiled = torch.compile(head.loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(maps, rois, targets)["mask"], head.loss(maps, rois, targets)["mask"])


def test_masks_of_crowds_are_not_needed(root):
    content = clean_content()
    content["annotations"][-1]["segmentation"] = []
    dataset = open_set(write_content(root, content), masks=True)
    assert dataset.health_report == []
    assert dataset[(0, 3)]["has_mask"].tolist() == [True, True, False]
