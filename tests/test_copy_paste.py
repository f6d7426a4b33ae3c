"""Copy-paste changes polygons, boxes and keypoints as it changes bitmaps."""

import numpy as np
import pytest
import torch
from mixing_scenes import Sample, drawn, rows, scene, with_partners
from torch import Tensor
from torchvision.ops import masks_to_boxes
from torchvision.tv_tensors import BoundingBoxes, Image

from chordate.data.polygons import Polygons
from chordate.data.transforms import CopyPaste
from chordate.data.transforms.copy_paste import MIN_VISIBLE
from chordate.data.transforms.mixing import FILL
from chordate.errors import ConfigError


@pytest.mark.parametrize("seed", range(12))
def test_copy_paste_changes_polygons_as_it_changes_bitmaps(seed: int) -> None:
    below, above = scene(seed, 90, 120, 7), scene(100 + seed, 110, 80, 6, first_label=50)
    height, width = 110, 120
    torch.manual_seed(seed)
    result = CopyPaste()(with_partners(below, above))
    if max(result["labels"]) < 50:
        assert result["image"] is below["image"]  # no instance was pasted
        return
    assert result["image"].shape == (3, height, width)
    got, place = drawn(result, height, width), rows(result)
    pasted = [label for label in place if label >= 50]
    masks_above, masks_below = drawn(above, height, width), drawn(below, height, width)
    cover = masks_above[[label - 50 for label in pasted]].any(0)

    for label in pasted:
        assert torch.equal(got[place[label]], masks_above[label - 50])
        for name in ("boxes", "keypoints"):
            assert torch.equal(result[name][place[label]], above[name][label - 50])
    for label, mask in enumerate(masks_below[:6]):
        left = mask & ~cover
        assert (label in place) == bool(left.sum() >= MIN_VISIBLE * mask.sum())
        if label not in place:
            continue
        assert torch.equal(got[place[label]], left)
        box = result["boxes"][place[label]].as_subclass(Tensor)
        if left.sum() < mask.sum():
            assert torch.equal(box, masks_to_boxes(left[None])[0] + torch.tensor([0, 0, 1, 1]))
        else:
            assert torch.equal(box, below["boxes"][label])
    crowd = place[6]
    assert result["crowd"].tolist() == [row == crowd for row in range(len(place))]
    assert torch.equal(result["boxes"][crowd], below["boxes"][6])

    image = torch.tensor(FILL, dtype=torch.uint8)[:, None, None].repeat(1, height, width)
    image[:, :90, :120] = below["image"]
    image[:, :, :80] = torch.where(cover[:, :80], above["image"], image[:, :, :80])
    assert torch.equal(result["image"], image)


def test_an_object_is_dropped_if_less_than_a_tenth_of_it_stays_visible() -> None:
    def square(width: float, label: int, side: int = 100) -> Sample:
        ring = np.array([[0, 0], [width, 0], [width, side], [0, side]], np.float32)
        return {
            "image": Image(torch.zeros(3, 100, 100, dtype=torch.uint8)),
            "boxes": BoundingBoxes([[0, 0, width, side]], format="XYXY", canvas_size=(100, 100)),
            "labels": torch.tensor([label]),
            "crowd": torch.tensor([False]),
            "polygons": Polygons.from_rings([[ring]], (100, 100)),
        }

    for covered, left in ((90, [[90, 0, 100, 100]]), (91, [])):
        for seed in range(9):  # the object is pasted for about half of the seeds
            torch.manual_seed(seed)
            result = CopyPaste()(with_partners(square(100, 0), square(covered, 1)))
            if 1 in result["labels"]:
                assert result["boxes"][result["labels"] == 0].tolist() == left


def test_keypoints_under_a_pasted_object_are_marked_hidden_as_in_coco() -> None:
    below, above = scene(3, 90, 120, 7), scene(4, 90, 120, 6, first_label=50)
    for seed in range(5):
        torch.manual_seed(seed)
        result = CopyPaste()(with_partners(below, above))
        place = rows(result)
        cover = drawn(above, 90, 120)[[label - 50 for label in place if label >= 50]].any(0)
        for label in range(7):
            if label not in place:
                continue
            for (x, y, seen), now in zip(
                below["keypoints"][label].tolist(), result["keypoints"][place[label]].tolist()
            ):
                assert now == [x, y, min(seen, 1) if cover[int(y), int(x)] else seen]
    assert result["keypoints"].mirrored.tolist() == [0, 2, 1, 4, 3]


def test_copy_paste_pastes_any_number_of_objects_but_no_crowd() -> None:
    counts, pasted = set(), set()
    empty, full = scene(1, 40, 40, 0), scene(2, 40, 40, 5)
    for seed in range(60):
        torch.manual_seed(seed)
        labels = CopyPaste()(with_partners(empty, full))["labels"].tolist()
        counts.add(len(labels))
        pasted.update(labels)
    assert counts == {0, 1, 2, 3, 4}
    assert pasted == {0, 1, 2, 3}


def test_copy_paste_without_masks_is_refused() -> None:
    sample = scene(0, 20, 20, 2)
    del sample["polygons"]
    with pytest.raises(ConfigError, match="masks=True"):
        CopyPaste()(sample)
