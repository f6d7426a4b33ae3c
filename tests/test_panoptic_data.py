"""Panoptic data: the reader, transforms of segments, predictions as records, and one-line error messages."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import hotcoco
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chordate.data import CocoPanoptic
from chordate.data.coco_panoptic import segment_numbers
from chordate.data.polygons import Polygons
from chordate.data.rasterize import instance_bitmaps
from chordate.data.rle import mask_rings
from chordate.errors import DataError
from chordate.structures import IGNORED, DatasetMeta, PanopticMap
from chordate.structures.panoptic import segment_boxes

CATEGORIES = [
    {"id": 9, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
    {"id": 4, "name": "cat", "isthing": 1, "color": [255, 0, 0]},
    {"id": 70, "name": "grass", "isthing": 0, "color": [0, 255, 0]},
    {"id": 12, "name": "dog", "isthing": 1, "color": [255, 255, 0]},
]
NAMES = ("cat", "dog", "sky", "grass")
# Segment id, category id, crowd, and the rows and columns of the segment. Later segments cover earlier ones.
SEGMENTS = [
    (70_000, 9, 0, slice(2, 20), slice(0, 40)),
    (300, 70, 0, slice(20, 32), slice(0, 40)),
    (5, 4, 0, slice(6, 16), slice(4, 12)),
    (16_000_001, 12, 0, slice(10, 25), slice(10, 30)),
    (6, 4, 1, slice(0, 9), slice(30, 38)),
]


def write_panoptic(root: Path, count: int = 2) -> dict:
    """Write images of 32×40 pixels that have the same segments with different ids. Rows 0 and 1 have no segment except
    a crowd."""
    for folder in ("images", "panoptic"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        ids = np.zeros((32, 40), np.int64)
        for own, _, _, rows, columns in SEGMENTS:
            ids[rows, columns] = own + number
        colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        cv2.imwrite(str(root / f"panoptic/{number}.png"), colors[..., ::-1])
        noise = np.random.default_rng(number).integers(0, 256, (32, 40, 3), np.uint8)
        cv2.imwrite(str(root / f"images/{number}.jpg"), noise)
        images.append({"id": 50 - number, "file_name": f"{number}.jpg", "height": 32, "width": 40})
        segments = [{"id": own + number, "category_id": c, "iscrowd": crowd} for own, c, crowd, *_ in SEGMENTS]
        annotations.append({"image_id": 50 - number, "file_name": f"{number}.png", "segments_info": segments})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "panoptic.json").write_text(json.dumps(content))
    return content


def reader(root: Path, **settings) -> CocoPanoptic:
    return CocoPanoptic("panoptic.json", "images", data_root=root, **settings)


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


def edit(root: Path, change) -> None:
    content = json.loads((root / "panoptic.json").read_text())
    change(content)
    (root / "panoptic.json").write_text(json.dumps(content))


def set_segment(key: str, value):
    return lambda root: edit(root, lambda c: c["annotations"][0]["segments_info"][0].update({key: value}))


def recolor(root: Path) -> None:
    image = cv2.imread(str(root / "panoptic/0.png"))
    image[0, 0] = (0, 2, 1)
    cv2.imwrite(str(root / "panoptic/0.png"), image)


MISTAKES = [
    (set_segment("category_id", 8), r"segment 70000 of 0\.png has category_id 8, .* not in categories \(9 sky, 4 cat,"),
    (set_segment("id", 123), r"panoptic/0\.png: pixels have the segment id 70000, which is not in panoptic\.json"),
    (recolor, r"panoptic/0\.png: pixels have the segment id 513, which is not in panoptic\.json"),
    (
        lambda root: edit(root, lambda c: c["annotations"][0]["segments_info"].append({"id": 77, "category_id": 4})),
        r"panoptic\.json: segment 77 of 0\.png has no pixel in .*0\.png",
    ),
    (set_segment("id", 0), r"segment 0 of 0\.png: its id must be an integer 1 … 16777215, .*; 0 marks pixels without"),
    (set_segment("id", -5), r"segment -5 of 0\.png: its id must be an integer 1 … 16777215"),
    (set_segment("id", 10**20), r"segment 1(0){20} of 0\.png: its id must be an integer 1 … 16777215"),
    (
        lambda root: edit(root, lambda c: [i.update(id=i["id"] + 10**20) for i in c["images"]]),
        r"panoptic\.json: image 1\.jpg has the id 1(0){18}49; an id must be an integer of at most 9223372036854775807",
    ),
    (
        lambda root: edit(root, lambda c: [i.update(id=f"a{i['id']}") for i in c["images"]]),
        r"0\.png belongs to image_id 50, which is not in images",
    ),
    (
        lambda root: edit(root, lambda c: c["images"][1].update(id="a49")),
        r"image 1\.jpg has the id 'a49', but other ids are integers; make all ids text, or all integers",
    ),
    (
        lambda root: edit(root, lambda c: c["images"][1].update(id=4.5)),
        r"image 1\.jpg has the id 4\.5; an id must be an integer",
    ),
    (
        lambda root: edit(root, lambda c: c["categories"][0].update(id=10**20)),
        "category sky has the id 1(0){20}; an id",
    ),
    (
        lambda root: edit(
            root, lambda c: c["annotations"].append({**c["annotations"][0], "file_name": "x.png", "segments_info": []})
        ),
        r"image_id 50 has two annotations \(0\.png and x\.png\); keep one",
    ),
    (lambda root: edit(root, lambda c: c["categories"][0].update(name=5)), "category 9 has the name 5; a name must be"),
    (lambda root: edit(root, lambda c: c["categories"][0].update(name=None)), "category 9 has the name None; a name"),
    (
        lambda root: edit(root, lambda c: c["categories"][0].update(color=[1, 2])),
        r"category sky has the color \[1, 2\]; give 3 integers 0 … 255",
    ),
    (
        lambda root: edit(root, lambda c: c["categories"][0].update(color="red")),
        "category sky has the color 'red'; give",
    ),
    (
        lambda root: edit(root, lambda c: c["categories"][0].update(color=[300, 0, 0.5])),
        r"category sky has the color \[300, 0, 0\.5\]; give 3 integers 0 … 255",
    ),
    (set_segment("id", 5), r"two segments of 0\.png have the same id"),
    (lambda root: edit(root, lambda c: c["images"].pop(0)), r"0\.png belongs to image_id 50, which is not in images"),
    (lambda root: edit(root, lambda c: c["annotations"].pop(0)), r"image 0\.jpg \(id 50\) has no entry in annotations"),
    (
        lambda root: edit(root, lambda c: c["categories"][1].update(isthing="yes")),
        r"category cat has isthing 'yes'; set it to 1 for things, and to 0 for stuff",
    ),
    (lambda root: edit(root, lambda c: c["categories"][1].update(name="sky")), "two categories have the name sky"),
    (lambda root: edit(root, lambda c: c["categories"][1].update(id=9)), "two categories have the id 9; it must be"),
    (lambda root: edit(root, lambda c: c["categories"].clear()), "categories is empty; list the categories of the"),
    (lambda root: edit(root, lambda c: c["categories"][1].pop("isthing")), r"category cat has no isthing; set it to 1"),
    (lambda root: edit(root, lambda c: c.pop("categories")), r"not COCO's panoptic format: 'categories' is missing"),
    (lambda root: edit(root, lambda c: c["images"].clear() or c["annotations"].clear()), "no images"),
    (lambda root: (root / "panoptic.json").write_text("{"), "not JSON, or truncated"),
    (lambda root: (root / "panoptic/0.png").unlink(), r"0\.png: no such panoptic file"),
    (lambda root: (root / "panoptic/0.png").write_bytes(b"no"), r"0\.png: not a readable image"),
    (lambda root: (root / "panoptic").rename(root / "moved"), r"panoptic: no such folder"),
    (lambda root: cv2.imwrite(str(root / "panoptic/0.png"), np.zeros((32, 40), np.uint8)), "not an RGB PNG"),
    (
        lambda root: cv2.imwrite(str(root / "panoptic/0.png"), np.zeros((40, 32, 3), np.uint8)),
        r"panoptic/0\.png: 32×40, but its image 0\.jpg is 40×32",
    ),
    (
        lambda root: edit(root, lambda c: c["images"][0].update(height=99)),
        r"0\.jpg: the image is 40×32, but the annotations say 40×99",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
def test_a_mistake_in_panoptic_data_is_one_line_with_both_sides(tmp_path, spoil, message):
    write_panoptic(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        reader(tmp_path).read(1)
    assert "\n" not in str(caught.value)


HOSTILE = [
    None, True, -1, 0, 1.5, 2**70, -(2**70), 1e400, "", "a", "5", "\ud800", "a\0b", "x" * 5000, [], [None], ["a"], [[]],
    {}, {"id": 1}, "../../etc/passwd", "é" * 300,
]  # fmt: skip


def places(value, path=()):
    """The path of every value in nested lists and objects."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(content, path, value):
    content = json.loads(json.dumps(content))
    owner = content
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    return content


def samples(root: Path) -> list[dict]:
    dataset = reader(root)
    return [dataset.read(index) for index in range(len(dataset))]


def test_any_value_of_any_type_is_read_or_is_one_line(tmp_path):
    content = write_panoptic(tmp_path)
    refused = 0
    # Only values in the first item of each list are replaced.
    for path in [place for place in places(content) if not {1, 2, 3, 4} & set(place)]:
        for value in HOSTILE:
            (tmp_path / "panoptic.json").write_text(json.dumps(replaced(content, path, value)))
            try:
                samples(tmp_path)
            except DataError as error:
                refused += 1
                assert len(str(error).splitlines()) == 1 and len(str(error)) < 1000, (path, value)
    assert refused > 400


def test_numbers_as_text_and_nulls_are_read_like_numbers(tmp_path):
    content = write_panoptic(tmp_path)
    want = samples(tmp_path)

    def forms(value):
        return [str(value), float(value)]

    changed = 0
    for path in places(content):
        if path[-1] in ("id", "image_id", "category_id", "height", "width", "iscrowd", "isthing"):
            value = content
            for key in path:
                value = value[key]
            for other in [*forms(value), *([None] if path[-1] == "iscrowd" and not value else [])]:
                (tmp_path / "panoptic.json").write_text(json.dumps(replaced(content, path, other)))
                for ours, expected in zip(samples(tmp_path), want, strict=True):
                    assert ours["info"] == expected["info"], (path, other)
                    for name in ("segments", "segment_labels", "segment_crowd"):
                        assert torch.equal(ours[name], expected[name]), (path, other)
                changed += 1
    assert changed > 60


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


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (DatasetMeta((*NAMES, "cow"), stuff=("sky", "grass")), "cow is only a class of the model"),
        (DatasetMeta(NAMES[:3], stuff=("sky",)), "grass is only a class of its categories"),
        (DatasetMeta(NAMES, stuff=("sky",)), "grass is stuff here, but not in the model"),
    ],
)
def test_a_model_of_other_classes_or_other_stuff_is_refused(tmp_path, meta, message):
    write_panoptic(tmp_path)
    with pytest.raises(DataError, match=message):
        reader(tmp_path, meta=meta)


def test_class_images_lists_the_images_of_each_class(tmp_path):
    write_panoptic(tmp_path)
    edit(tmp_path, lambda c: c["annotations"][1]["segments_info"][2].update(category_id=12))
    assert [images.tolist() for images in reader(tmp_path).class_images()] == [[0, 1], [0, 1], [0, 1], [0, 1]]
    edit(tmp_path, lambda c: c["annotations"][1]["segments_info"][4].update(category_id=12))
    assert [images.tolist() for images in reader(tmp_path).class_images()] == [[1], [0, 1], [0, 1], [0, 1]]


def test_crowds_alone_are_something_to_train_on_but_no_segments_are_not(tmp_path):
    write_panoptic(tmp_path)
    edit(tmp_path, lambda c: [s.update(iscrowd=1) for a in c["annotations"] for s in a["segments_info"]])
    dataset = reader(tmp_path)
    dataset.check_annotated(training=True)
    assert set(dataset.original(0).targets.labels.unique().tolist()) == {IGNORED, 0, 1, 2, 3}
    edit(tmp_path, lambda c: [a.update(segments_info=[]) for a in c["annotations"]])
    with pytest.raises(DataError, match="no segments, so there is nothing to train on"):
        reader(tmp_path).check_annotated(training=True)


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
