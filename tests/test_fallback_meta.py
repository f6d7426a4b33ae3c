"""`fallback_meta` can set every field of DatasetMeta by the field's name."""

from dataclasses import fields

import pytest

from chordate.data.coco_classes import COCO_CLASSES, COCO_SKELETON
from chordate.data.fallback_meta import fallback_meta
from chordate.errors import ConfigError
from chordate.structures import DatasetMeta, Skeleton

FULL = DatasetMeta(
    classes=("road", "car"),
    skeleton=Skeleton(("nose", "tail"), ((0, 1),)),
    stuff=("road",),
    palette=((128, 64, 128), (0, 0, 142)),
    ignore_label=255,
    white_level=4095,
    extra={"unit": "m"},
)


def test_every_field_of_a_datasets_metadata_can_be_set() -> None:
    assert all(getattr(FULL, f.name) != getattr(DatasetMeta(), f.name) for f in fields(DatasetMeta))
    assert fallback_meta(FULL.to_dict()) == FULL


@pytest.mark.parametrize("field", [f.name for f in fields(DatasetMeta)])
def test_each_field_of_the_metadata_can_be_set_alone(field: str) -> None:
    meta = fallback_meta({field: FULL.to_dict()[field]})
    assert meta == DatasetMeta(**{field: getattr(FULL, field)})


def test_names_numbers_and_lists_are_shorthand_for_metadata_values() -> None:
    assert fallback_meta({"classes": "coco", "skeleton": "coco"}) == DatasetMeta(COCO_CLASSES, COCO_SKELETON)
    assert fallback_meta({"classes": 2}).classes == ("class 0", "class 1")
    assert len(fallback_meta({"classes": "imagenet"}).classes) == 1000
    assert fallback_meta({"skeleton": ["a", "b"]}).skeleton == Skeleton(("a", "b"))
    assert fallback_meta({"classes": ["a"], "skeleton": None, "palette": None}) == DatasetMeta(("a",))


@pytest.mark.parametrize("section", [None, {}, {"classes": None, "skeleton": None}])
def test_no_fallback_metadata_is_none(section: dict | None) -> None:
    assert fallback_meta(section) is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"classes": 0}, "classes must be ≥ 1, got 0"),
        ({"classes": "imagnet"}, 'unknown classes "imagnet"; did you mean "imagenet"'),
        ({"clases": ["cat"]}, 'unknown setting of fallback_meta "clases"; did you mean "classes"'),
        ({"ignore_label": "void"}, "ignore_label must be"),
        ({"palette": [[1, 2]]}, "palette.0 must"),
        ({"skeleton": {"names": ["a"], "bones": [[0, 1]]}}, r"bone \(0, 1\) must have keypoint indices 0 ≤ i < 1"),
        ({"skeleton": {"nams": ["a"]}}, 'unknown setting of fallback_meta.skeleton "nams"'),
        ({"classes": 2, "extra": {"num_classes": 3}}, "extra must not have num_classes"),
    ],
)
def test_invalid_metadata_is_a_one_line_error(section: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        fallback_meta(section)
    assert "\n" not in str(caught.value)
