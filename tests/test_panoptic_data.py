"""Panoptic data: the reader, transforms of segments, and predictions as records."""

from __future__ import annotations

import json

import hotcoco
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from panoptic_files import NAMES, SEGMENTS, edit, reader, write_panoptic

from chordate.data import CocoPanoptic
from chordate.data.coco_panoptic import segment_numbers
from chordate.data.polygons import Polygons
from chordate.data.rasterize import instance_bitmaps
from chordate.data.rle import mask_rings
from chordate.structures import IGNORED, DatasetMeta, PanopticMap
from chordate.structures.panoptic import segment_boxes


def test_things_come_first_and_ids_are_contiguous(tmp_path):
    write_panoptic(tmp_path)
    dataset = reader(tmp_path)
    assert dataset.meta.classes == NAMES and dataset.meta.stuff == ("sky", "grass")
    assert dataset.category_ids == [4, 12, 9, 70] and dataset.meta.palette[0] == (255, 0, 0)
    assert dataset.image_ids.tolist() == [49, 50]


def test_image_ids_may_be_text(tmp_path):
    write_panoptic(tmp_path)
    plain = reader(tmp_path)

    def rename(content: dict) -> None:
        for record in content["images"]:
            record["id"] = f"ulm_{record['id']}"
        for record in content["annotations"]:
            record["image_id"] = f"ulm_{record['image_id']}"

    edit(tmp_path, rename)
    dataset = reader(tmp_path)
    for index, number in enumerate((49, 50)):
        image_id = dataset[0, index]["info"].image_id
        assert dataset.id_in_file(image_id) == f"ulm_{number}" and plain.id_in_file(number) == number
        assert dataset.index_of(image_id) == plain.index_of(number) == index
        for ours, expected in zip(dataset.segments_of(image_id), plain.segments_of(number), strict=True):
            assert torch.equal(ours, expected)


def test_targets_are_the_segments_of_the_png(tmp_path):
    write_panoptic(tmp_path)
    targets = reader(tmp_path).original(0).targets
    owner = np.full((32, 40), -1)
    for place, (*_, rows, columns) in enumerate(SEGMENTS):
        owner[rows, columns] = place
    # Segments by ascending id are 5 cat, 6 crowd of cats, 300 grass, 70,000 sky and 16,000,001 dog.
    label = {-1: IGNORED, 0: 2, 1: 3, 2: 0, 3: 1, 4: 0}  # a crowd keeps its class
    assert np.array_equal(targets.labels[0].numpy(), np.vectorize(label.get)(owner))
    slot = {-1: IGNORED, 0: IGNORED, 1: IGNORED, 2: 0, 3: 2, 4: 1}
    assert np.array_equal(targets.slots[0].numpy(), np.vectorize(slot.get)(owner))
    instances = targets.instances
    assert instances.labels[0, :3].tolist() == [0, 0, 1] and instances.valid[0].sum() == 3
    assert instances.crowd[0, :3].tolist() == [False, True, False]
    assert instances.boxes[0, :3].tolist() == [[4, 6, 12, 16], [30, 0, 38, 9], [10, 10, 30, 25]]
    assert targets.describe(0) == "2 things, 2 stuff segments, 1 crowd"


def test_the_order_of_the_models_classes_is_followed(tmp_path):
    write_panoptic(tmp_path)
    meta = DatasetMeta(("grass", "dog", "cat", "sky"), stuff=("sky", "grass"))
    dataset = reader(tmp_path, meta=meta)
    labels = dataset.original(0).targets.labels[0]
    assert labels[30, 0] == 0 and labels[12, 20] == 1 and labels[7, 5] == 2 and labels[3, 0] == 3
    numbers, segments, crowd = dataset.segments_of(50)
    assert segments[numbers[30, 0].long() - 1] == 0 and crowd.tolist() == [False, True, False, False, False]


def test_bitmaps_equal_those_of_polygons_along_the_pixel_borders(real_data):
    """Both are rasterized in the box of each instance."""
    dataset = CocoPanoptic("panoptic.json", "images", "panoptic", data_root=real_data / "panoptic-mini")
    for index, image_id in enumerate(dataset.image_ids.tolist()):
        numbers, labels, _ = dataset.segments_of(image_id)
        instances = dataset.original(index).targets.instances
        things = [k + 1 for k, label in enumerate(labels.tolist()) if dataset.is_thing[label]]
        rings = [mask_rings((numbers == number).numpy().astype(np.uint8)) for number in things]
        polygons = Polygons.from_rings(rings, tuple(numbers.shape))
        boxes = instances.boxes[0, : len(things)]
        assert torch.equal(boxes, polygons.bounds())
        differing = (instance_bitmaps(polygons, boxes) != instances.masks[0, : len(things)]).float().mean()
        assert differing < 1e-4  # rounding errors where the center of a grid cell is on a pixel border


PIPELINES = [
    [{"type": "RandomHorizontalFlip", "p": 1.0}],
    [{"type": "ResizeShortestEdge", "size": 50, "max_size": 99}],
    [{"type": "RandomCrop", "size": 24, "pad_if_needed": True}],
    [{"type": "RandomCrop", "size": 60, "pad_if_needed": True}],
    [{"type": "RandomRotation", "degrees": [30, 30], "fill": 7}],
    [{"type": "LargeScaleJitter", "size": 48, "scale": [0.5, 1.5]}],
]


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline[0]["type"])
def test_under_every_transform_boxes_masks_and_classes_belong_together(tmp_path, pipeline):
    write_panoptic(tmp_path)
    dataset = reader(tmp_path, pipeline=pipeline)
    for epoch in range(4):
        targets = dataset.collate([dataset[epoch, 0], dataset[epoch, 1]], 16).targets
        instances = targets.instances
        for n in range(2):
            assert set(targets.labels[n].unique().tolist()) <= {IGNORED, 0, 1, 2, 3}
            count = int(instances.valid[n].sum())
            assert sorted(set(targets.slots[n].unique().tolist()) - {IGNORED}) == list(range(count))
            for slot in range(count):
                own = targets.slots[n] == slot
                y, x = own.nonzero(as_tuple=True)
                box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
                assert instances.boxes[n, slot].tolist() == box
                assert (targets.labels[n][own] == instances.labels[n, slot]).all()
                share = own.sum() / ((box[2] - box[0]) * (box[3] - box[1]))
                assert instances.masks[n, slot].float().mean() == pytest.approx(share.item(), abs=0.03)


def test_padding_of_images_has_no_class(tmp_path):
    write_panoptic(tmp_path)
    targets = reader(tmp_path).collate([reader(tmp_path)[0, 0]], 64).targets
    assert (targets.labels[0, 32:] == IGNORED).all() and (targets.slots[0, :, 40:] == IGNORED).all()


@given(st.data())
def test_segment_numbers_equal_a_lookup_pixel_by_pixel(data):
    limit = 2**24 - 1
    known = sorted({0, *data.draw(st.lists(st.integers(1, limit), max_size=6))})
    choices = st.sampled_from(known) | st.sampled_from([1, 256, limit])
    rows = data.draw(st.lists(st.lists(choices, min_size=3, max_size=3), min_size=1, max_size=5))
    numbers, unknown = segment_numbers(np.array(rows, np.int32), np.array(known, np.int64))
    assert unknown.tolist() == sorted({number for row in rows for number in row} - {*known})
    for row, own in zip(rows, numbers.tolist(), strict=True):
        assert all(known[number] == value for value, number in zip(row, own, strict=True) if value in known)


def test_class_images_lists_the_images_of_each_class(tmp_path):
    write_panoptic(tmp_path)
    edit(tmp_path, lambda c: c["annotations"][1]["segments_info"][2].update(category_id=12))
    assert [images.tolist() for images in reader(tmp_path).class_images()] == [[0, 1], [0, 1], [0, 1], [0, 1]]
    edit(tmp_path, lambda c: c["annotations"][1]["segments_info"][4].update(category_id=12))
    assert [images.tolist() for images in reader(tmp_path).class_images()] == [[1], [0, 1], [0, 1], [0, 1]]


def prediction() -> PanopticMap:
    ids = torch.zeros(6, 8, dtype=torch.int32)
    ids[:3], ids[3:5, 2:4], ids[4:, 4:7] = 1, 2, 3
    areas = torch.tensor([24, 4, 6])
    return PanopticMap(
        ids, torch.tensor([2, 0, 1]), torch.tensor([False, True, True]), torch.tensor([1, 0.4, 0.9]), areas
    )


def test_boxes_and_masks_are_those_of_the_segments():
    found = prediction()
    assert found.boxes().tolist() == [[0, 0, 8, 3], [2, 3, 4, 5], [4, 4, 7, 6]]
    assert found.masks().sum((1, 2)).tolist() == found.areas.tolist()
    assert segment_boxes(found.ids, 4)[3].tolist() == [0, 0, 0, 0]
    assert found.describe() == "2 things, 1 stuff segment"


def test_a_score_threshold_removes_segments_and_renumbers_the_others():
    kept = prediction().above(0.5)
    assert kept.labels.tolist() == [2, 1] and kept.areas.tolist() == [24, 6]
    assert kept.masks().sum((1, 2)).tolist() == [24, 6] and kept.ids[4, 4] == 2 and kept.ids[3, 2] == 0


def test_records_have_cocos_panoptic_form():
    meta = DatasetMeta(NAMES, stuff=("sky", "grass"))
    (record,) = json.loads(json.dumps(prediction().to_records(meta)))
    rows = record["segments_info"]
    assert [row["class"] for row in rows] == ["sky", "cat", "dog"] and [row["isthing"] for row in rows] == [0, 1, 1]
    assert rows[1]["bbox"] == [2, 3, 2, 2] and rows[1]["area"] == 4 and rows[1]["score"] == 0.4
    for number, row in enumerate(rows, 1):
        assert row["id"] == number
        assert np.array_equal(hotcoco.mask.decode(row["mask"]), (prediction().ids == number).numpy())
