"""Transforms match the papers and other libraries, and keep the fields of a sample consistent."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes, Image

from chordate.data.instance_keypoints import InstanceKeypoints
from chordate.data.polygons import Polygons
from chordate.data.transforms import (
    LargeScaleJitter,
    PhotometricDistortion,
    ResizeShortestEdge,
    SanitizeInstances,
    build_pipeline,
)
from chordate.errors import ConfigError, DataError
from chordate.registry import TRANSFORMS

SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)


def make_sample(height: int = 60, width: int = 80, boxes: list[list[float]] | None = None) -> dict:
    boxes = [[10, 10, 30, 40], [50, 5, 75, 55]] if boxes is None else boxes
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    rings = [[SQUARE * (box[2:] - box[:2]) + box[:2]] for box in corners.numpy()]
    image = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return {
        "image": Image(image),
        "boxes": BoundingBoxes(corners, format="XYXY", canvas_size=(height, width)),
        "labels": torch.arange(len(boxes)),
        "crowd": torch.zeros(len(boxes), dtype=torch.bool),
        "polygons": Polygons.from_rings(rings, (height, width)),
        "keypoints": InstanceKeypoints(
            torch.cat((corners.reshape(-1, 2, 2), torch.full((len(corners), 2, 1), 2.0)), 2),
            mirrored=[0, 1],
            canvas_size=(height, width),
        ),
    }


def crop(sample: dict, top: int, left: int, height: int, width: int) -> dict:
    window = (top, left, height, width)
    return {key: value if key in ("labels", "crowd") else F.crop(value, *window) for key, value in sample.items()}


def test_every_v2_transform_is_registered_under_its_own_name() -> None:
    theirs = {name for name, cls in vars(v2).items() if isinstance(cls, type) and issubclass(cls, v2.Transform)} - {
        "Transform"
    }
    assert len(theirs) > 50
    assert theirs <= set(TRANSFORMS.names())
    assert isinstance(TRANSFORMS.build({"type": "RandomHorizontalFlip", "p": 0.3}), v2.RandomHorizontalFlip)
    assert isinstance(TRANSFORMS.build("RandomPhotometricDistort"), v2.RandomPhotometricDistort)


def test_container_transforms_build_their_inner_transforms() -> None:
    inner = [{"type": "RandomRotation", "degrees": 10, "interpolation": "bilinear"}, "RandomGrayscale"]
    built = TRANSFORMS.build({"type": "RandomApply", "p": 0.5, "transforms": inner})
    assert [type(t) for t in built.transforms] == [v2.RandomRotation, v2.RandomGrayscale]
    assert built.transforms[0].interpolation == v2.InterpolationMode.BILINEAR


def test_a_dtype_and_an_interpolation_are_configured_by_name() -> None:
    assert TRANSFORMS.build({"type": "ToDtype", "dtype": "float32"}).dtype is torch.float32
    with pytest.raises(ConfigError, match='unknown dtype "flaot32"; did you mean "float32"'):
        TRANSFORMS.build({"type": "ToDtype", "dtype": "flaot32"})
    with pytest.raises(ConfigError, match='unknown interpolation "bilinaer"; did you mean "bilinear"'):
        TRANSFORMS.build({"type": "RandomRotation", "degrees": 10, "interpolation": "bilinaer"})


def test_the_error_for_a_misspelled_transform_suggests_near_names() -> None:
    with pytest.raises(ConfigError, match='unknown transform "RandomHorizontalFlipp"; did you mean "RandomHorizont'):
        build_pipeline([{"type": "RandomHorizontalFlipp"}])
    with pytest.raises(ConfigError, match='unknown setting of transform RandomHorizontalFlip "prob"'):
        build_pipeline([{"type": "RandomHorizontalFlip", "prob": 0.5}])


@pytest.mark.parametrize(
    "transform",
    [{"type": "Normalize", "mean": [0.5], "std": [0.5]}, {"type": "ToDtype", "dtype": "float32", "scale": True}],
)
def test_normalizing_in_the_pipeline_is_refused_because_models_do_it(transform: dict) -> None:
    with pytest.raises(ConfigError, match="the model takes images of 0 … 255"):
        build_pipeline([transform])


@pytest.mark.parametrize("shape", [(427, 640), (640, 480), (333, 500), (97, 411)])
def test_resizing_with_torchvisions_rounding_equals_torchvisions_detectors_exactly(shape: tuple[int, int]) -> None:
    size, longest = 200, 300
    sample = make_sample(*shape)
    ours = ResizeShortestEdge(size, longest, rounding="torchvision")(sample)
    reference = GeneralizedRCNNTransform(size, longest, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    image, target = reference.resize(sample["image"].as_subclass(torch.Tensor).float(), {"boxes": sample["boxes"]})
    assert ours["image"].dtype == torch.float32
    assert torch.equal(ours["image"].as_subclass(torch.Tensor), image)
    torch.testing.assert_close(ours["boxes"].as_subclass(torch.Tensor), target["boxes"], rtol=0, atol=1e-4)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_detectron2_resize_follows_its_size_formula(height: int, width: int) -> None:
    resize = ResizeShortestEdge(800, 1333)
    got = resize.make_params([Image(torch.empty(3, height, width, device="meta"))])["size"]
    # Detectron2 scales the shorter side to 800, scales both down if the longer one exceeds 1333, and rounds half up.
    scale = 800 / min(height, width)
    new = [800.0, scale * width] if height < width else [scale * height, 800.0]
    if max(new) > 1333:
        shrink = 1333 / max(new)
        new = [side * shrink for side in new]
    expected = [max(1, int(side + 0.5)) for side in new]
    # If the exact product ends in .5, it may be rounded differently, since the multiplications are in another order.
    assert all(abs(a - b) <= (abs(side % 1 - 0.5) < 1e-6) for a, b, side in zip(got, expected, new))


def test_uint8_resize_is_pillows_bilinear_filter() -> None:
    import PIL.Image

    sample = make_sample(300, 400)
    ours = ResizeShortestEdge(120)(sample)["image"]
    picture = PIL.Image.fromarray(sample["image"].permute(1, 2, 0).numpy())
    pillow = np.asarray(picture.resize((160, 120), PIL.Image.Resampling.BILINEAR))
    assert ours.dtype == torch.uint8
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - pillow).max() <= 1


def test_multi_scale_resizing_samples_every_size() -> None:
    resize = ResizeShortestEdge([30, 40, 50])
    torch.manual_seed(0)
    shorter = {min(resize(make_sample())["image"].shape[-2:]) for _ in range(40)}
    assert shorter == {30, 40, 50}


def test_large_scale_jitter_has_the_papers_range_and_window() -> None:
    jitter = LargeScaleJitter(100, (0.1, 2.0))
    torch.manual_seed(0)
    image = Image(torch.empty(3, 60, 80, device="meta"))
    params = [jitter.make_params([image]) for _ in range(400)]
    factors = np.array([p["scaled"][1] / 100 for p in params])  # at factor 1, the width is resized to 100
    assert factors.min() < 0.15
    assert factors.max() > 1.95
    assert abs(factors.mean() - 1.05) < 0.06
    for p in params:
        top, left, height, width = p["crop"]
        assert (height, width) == (min(100, p["scaled"][0]), min(100, p["scaled"][1]))
        assert 0 <= top <= p["scaled"][0] - height
        assert 0 <= left <= p["scaled"][1] - width


def test_large_scale_jitter_keeps_boxes_on_their_objects() -> None:
    """After the jitter, a red rectangle still fills its box."""
    jitter = LargeScaleJitter(96, (0.5, 2.0))
    sample = make_sample(boxes=[[20, 15, 60, 45]])
    picture = torch.zeros(3, 60, 80, dtype=torch.uint8)
    picture[0, 15:45, 20:60] = 255
    for seed in range(20):
        torch.manual_seed(seed)
        out = SanitizeInstances()(jitter({**sample, "image": Image(picture)}))
        ys, xs = torch.nonzero(out["image"][0] > 127, as_tuple=True)
        if len(out["boxes"]) == 0:
            continue
        bounds = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert (out["boxes"][0] - bounds).abs().max() <= 1
        assert (out["polygons"].bounds()[0] - out["boxes"][0]).abs().max() < 1e-3


@pytest.mark.parametrize(
    "arguments",
    [{"size": 0}, {"size": []}, {"size": 800, "max_size": 0}, {"size": 800, "rounding": "mmdet"}],
)
def test_invalid_settings_of_a_resize_are_refused(arguments: dict) -> None:
    with pytest.raises(ConfigError, match="ResizeShortestEdge"):
        TRANSFORMS.build({"type": "ResizeShortestEdge", **arguments})


def test_the_scale_range_of_a_jitter_must_not_decrease() -> None:
    with pytest.raises(ConfigError, match="scale must be a list of 2 non-decreasing numbers, got"):
        TRANSFORMS.build({"type": "LargeScaleJitter", "scale": [2.0, 0.1]})
    fixed = TRANSFORMS.build({"type": "LargeScaleJitter", "size": 96, "scale": [1.0, 1.0]})
    assert fixed(make_sample(boxes=[[20, 15, 60, 45]]))["image"].shape[1:] == (72, 96)


def test_a_dropped_instance_is_dropped_from_every_field() -> None:
    sample = make_sample(boxes=[[10, 10, 30, 40], [50, 5, 75, 55], [2, 2, 8, 9]])
    out = SanitizeInstances()(crop(sample, 0, 40, 60, 40))
    assert out["labels"].tolist() == [1]
    assert out["boxes"].tolist() == [[10, 5, 35, 55]]
    assert out["crowd"].tolist() == [False]
    assert out["polygons"].count == 1
    assert out["polygons"].bounds().tolist() == [[10, 5, 35, 55]]
    assert out["keypoints"].tolist() == [[[10, 5, 2], [35, 55, 2]]]


def test_a_clipped_box_shrinks_to_the_visible_part_of_its_polygon_if_configured() -> None:
    triangle = np.array([[0, 0], [40, 0], [0, 40]], np.float32)
    sample = make_sample(boxes=[[0, 0, 40, 40]])
    sample["polygons"] = Polygons.from_rings([[triangle]], (60, 80))
    cropped = crop(sample, 0, 20, 60, 60)
    assert SanitizeInstances()(cropped)["boxes"].tolist() == [[0, 0, 20, 40]]
    assert SanitizeInstances(tighten=True)(cropped)["boxes"].tolist() == [[0, 0, 20, 20]]


def test_a_box_whose_object_was_cropped_away_is_dropped() -> None:
    triangle = np.array([[0, 0], [40, 0], [0, 40]], np.float32)
    sample = make_sample(boxes=[[0, 0, 40, 40]])
    sample["polygons"] = Polygons.from_rings([[triangle]], (60, 80))
    assert len(SanitizeInstances()(crop(sample, 25, 25, 30, 30))["boxes"]) == 0


def test_images_without_instances_can_be_transformed() -> None:
    pipeline = build_pipeline(
        [
            {"type": "RandomRotation", "degrees": 30, "expand": True},
            {"type": "RandomIoUCrop"},
            {"type": "LargeScaleJitter", "size": 64},
            {"type": "RandomPhotometricDistort", "p": 1.0},
        ]
    )
    out = SanitizeInstances(tighten=True)(pipeline(make_sample(boxes=[])))
    assert out["boxes"].shape == (0, 4)
    assert out["labels"].shape == (0,)


def test_a_transform_that_returns_no_sample_is_named():
    def forget(sample: dict) -> None: ...

    with pytest.raises(DataError, match="forget failed: TypeError: it must return a dict, got NoneType"):
        build_pipeline([forget])(make_sample())


def test_photometric_distortion_never_permutes_channels():
    """The channels of an orange image keep their order; v2's RandomPhotometricDistort permutes them."""
    image = Image(torch.tensor([200, 100, 20], dtype=torch.uint8)[:, None, None].expand(3, 8, 8))

    def orders(kind: type[v2.RandomPhotometricDistort]) -> set[tuple[int, ...]]:
        transform = kind(hue=(0.0, 0.0), p=1.0)
        return {tuple(transform(image).float().mean((1, 2)).argsort().tolist()) for _ in range(30)}

    torch.manual_seed(0)
    assert orders(PhotometricDistortion) == {(2, 1, 0)}
    assert len(orders(v2.RandomPhotometricDistort)) > 1
