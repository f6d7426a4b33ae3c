"""Transforms move and crop polygons like bitmaps of the same instances."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2.functional._utils import _KERNEL_REGISTRY
from torchvision.tv_tensors import BoundingBoxes, Image

import chordate.data.transforms  # noqa: F401  (registers the kernels)
from chordate.data.polygon_kernels import clip
from chordate.data.polygons import Polygons, orient_clockwise
from chordate.data.rasterize import instance_bitmaps, rasterize
from chordate.data.rle import mask_rings
from chordate.errors import ConfigError
from chordate.heads.mask import mask_targets

HEIGHT, WIDTH = 240, 320
BILINEAR = v2.InterpolationMode.BILINEAR


def blob(x: float, y: float, radius: float, lobes: int = 5, vertices: int = 60) -> np.ndarray:
    angle = np.linspace(0.1, 2 * np.pi + 0.1, vertices, endpoint=False)
    reach = radius * (1 + 0.3 * np.cos(lobes * angle))
    return np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], 1).astype(np.float32)


@pytest.fixture
def polygons() -> Polygons:
    """Two instances well inside the image: a flower with a hole, and a quadrilateral with a separate triangle."""
    flower, hole = blob(103.3, 131.7, 60), blob(103.3, 131.7, 20)[::-1]
    quad = orient_clockwise(np.array([[200.2, 40.7], [290.4, 65.1], [285.3, 160.9], [225.6, 155.2]], np.float32))
    triangle = orient_clockwise(np.array([[220.4, 180.3], [285.7, 200.8], [230.9, 228.1]], np.float32))
    return Polygons.from_rings([[flower, hole], [quad, triangle]], (HEIGHT, WIDTH))


def drawn(polygons: Polygons, finer: int = 1) -> Tensor:
    """Bitmaps of the instances at `finer` times the image's resolution, `[M, finer * H, finer * W]`."""
    height, width = polygons.canvas_size
    whole = torch.tensor([[0.0, 0.0, width, height]]).expand(polygons.count, 4)
    return rasterize(polygons, whole, finer * height, finer * width)


def coverage(polygons: Polygons) -> Tensor:
    """The fraction of each pixel that is covered by each instance, `[M, H, W]`."""
    return avg_pool2d(drawn(polygons, finer=4).float(), 4)


def iou(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.bool().flatten(1), b.bool().flatten(1)
    return (a & b).sum(1) / (a | b).sum(1).clamp(min=1)


def center(mask: Tensor) -> Tensor:
    ys, xs = torch.meshgrid(torch.arange(mask.shape[1]), torch.arange(mask.shape[2]), indexing="ij")
    return torch.stack([(mask * xs).sum((1, 2)), (mask * ys).sum((1, 2))], 1) / mask.sum((1, 2))[:, None]


GEOMETRIC = {
    "horizontal flip": v2.RandomHorizontalFlip(1.0),
    "vertical flip": v2.RandomVerticalFlip(1.0),
    "resize": v2.Resize((231, 173)),
    "resize by the shorter side": v2.Resize(150, max_size=190),
    "scale jitter": v2.ScaleJitter((200, 200), (0.5, 1.5)),
    "random shortest size": v2.RandomShortestSize([110, 260]),
    "random resize": v2.RandomResize(110, 260),
    "crop": v2.RandomCrop((120, 140)),
    "crop with padding": v2.RandomCrop((220, 280), pad_if_needed=True),
    "center crop": v2.CenterCrop((121, 150)),
    "center crop with padding": v2.CenterCrop((201, 300)),
    "resized crop": v2.RandomResizedCrop((150, 170), scale=(0.3, 0.9)),
    "IoU crop": v2.RandomIoUCrop(),
    "pad": v2.Pad([3, 5, 10, 20]),
    "zoom out": v2.RandomZoomOut(p=1.0, side_range=(1.1, 2.0)),
    "rotation": v2.RandomRotation(40, interpolation=BILINEAR),
    "rotation with a larger canvas": v2.RandomRotation(40, expand=True, interpolation=BILINEAR),
    "rotation about a corner": v2.RandomRotation(20, center=[10, 20], interpolation=BILINEAR),
    "affine": v2.RandomAffine(20, translate=(0.1, 0.2), scale=(0.7, 1.3), shear=10, interpolation=BILINEAR),
    "perspective": v2.RandomPerspective(0.4, p=1.0),
    "elastic": v2.ElasticTransform(alpha=80.0, sigma=6.0),
    "in a container": v2.Compose([v2.RandomChoice([v2.RandomHorizontalFlip(1.0)]), v2.Pad(4)]),
}


@pytest.mark.parametrize("name", GEOMETRIC)
def test_a_transform_moves_polygons_as_it_moves_their_bitmaps(name: str, polygons: Polygons) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        boxes = BoundingBoxes(polygons.bounds(), format="XYXY", canvas_size=(HEIGHT, WIDTH))
        sample = {"image": Image(coverage(polygons)), "polygons": polygons, "boxes": boxes}
        moved = GEOMETRIC[name](sample)
        want, got = moved["image"], coverage(moved["polygons"])
        assert moved["polygons"].canvas_size == tuple(want.shape[-2:])
        large = want.sum((1, 2)) > 400  # area in pixels; the IoU of slivers at the border is not meaningful
        assert (iou(got[large] > 0.5, want[large] > 0.5) > 0.985).all()
        # Confusing pixel centers with corners would shift the polygons by half a pixel.
        assert ((center(got[large]) - center(want[large])).abs() < 0.1).all()


def test_every_functional_with_a_kernel_for_boxes_has_one_for_polygons() -> None:
    of_boxes = {functional for functional, kernels in _KERNEL_REGISTRY.items() if BoundingBoxes in kernels}
    missing = {f.__name__ for f in of_boxes if Polygons not in _KERNEL_REGISTRY[f]}
    assert missing <= {"get_size", "to_dtype"}  # the functionals that move no points


@pytest.mark.parametrize("transform", [v2.FiveCrop(50), v2.TenCrop(50)])
def test_transforms_that_make_several_images_are_refused(transform: v2.Transform, polygons: Polygons) -> None:
    with pytest.raises(ConfigError, match="several crops of one image"):
        transform({"polygons": polygons})


@pytest.mark.parametrize("transform", [v2.ToDtype(torch.float32), v2.ColorJitter(0.5), v2.Identity()])
def test_color_transforms_do_not_change_polygons(transform: v2.Transform, polygons: Polygons) -> None:
    moved = transform({"image": Image(torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)), "polygons": polygons})
    assert torch.equal(moved["polygons"], polygons)
    assert isinstance(moved["polygons"], Polygons)


def test_polygons_that_a_crop_cuts_off_do_not_come_back_with_padding(polygons: Polygons) -> None:
    cut = F.crop(polygons, 0, 0, HEIGHT, 100)
    back = drawn(F.pad(cut, [0, 0, WIDTH - 100, 0]))
    want = drawn(polygons)
    want[:, :, 100:] = 0
    assert torch.equal(back, want)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_clipping_does_not_change_polygons_inside_the_canvas(seed: int) -> None:
    random = np.random.default_rng(seed)
    rings = [random.uniform(-40, 90, (random.integers(3, 12), 2)).astype(np.float32) for _ in range(3)]
    polygons = Polygons.from_rings([rings[:2], [orient_clockwise(rings[2])]], (40, 50))
    clipped = clip(polygons)
    # Clipping rounds the intersections with the border, which can move an edge across a pixel center.
    assert (drawn(clipped) != drawn(polygons)).sum() <= 2
    vertices = clipped.as_subclass(Tensor)
    assert ((vertices >= 0) & (vertices <= torch.tensor([50.0, 40.0]))).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_polygons_traced_from_a_bitmap_rasterize_to_the_same_bitmap(
    height: int, width: int, fraction: float, seed: int
) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < fraction).astype(np.uint8)
    polygons = Polygons.from_rings([mask_rings(mask)], (height, width))
    assert torch.equal(drawn(polygons)[0], torch.from_numpy(mask))
    assert polygons.areas()[0] == pytest.approx(mask.sum(), abs=1e-3)


def test_polygons_of_equal_orientation_are_united_and_opposite_ones_cut_holes() -> None:
    outer = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], np.float32)
    inner = outer / 2 + 2
    union = Polygons.from_rings([[outer, inner]], (10, 10))
    ring = Polygons.from_rings([[outer, inner[::-1]]], (10, 10))
    assert drawn(union).sum() == 100
    assert drawn(ring).sum() == 75
    assert ring.areas().tolist() == [75.0]


def test_coco_polygons_are_drawn_as_pycocotools_draws_them(real_data) -> None:
    from pycocotools.coco import COCO

    coco = COCO(str(real_data / "coco-mini/annotations/instances_val2017.json"))
    ious = []
    for annotation in coco.anns.values():
        if annotation["iscrowd"] or annotation["area"] < 32**2:
            continue
        image = coco.imgs[annotation["image_id"]]
        rings = [orient_clockwise(np.array(part, np.float32).reshape(-1, 2)) for part in annotation["segmentation"]]
        polygons = Polygons.from_rings([rings], (image["height"], image["width"]))
        ious.append(iou(drawn(polygons), torch.from_numpy(coco.annToMask(annotation))[None]).item())
    assert len(ious) > 200
    assert np.mean(ious) > 0.995
    assert np.min(ious) > 0.95


def test_box_frame_bitmaps_give_mask_targets_like_fine_supersampling() -> None:
    """28×28 targets cropped from 112×112 bitmaps resemble polygons drawn at 16 times the resolution of the targets."""
    random = np.random.default_rng(0)
    instances = [
        [blob(120, 90, random.uniform(15, 55), random.integers(0, 7)) * random.uniform(0.8, 1.2)] for _ in range(60)
    ]
    polygons = Polygons.from_rings(instances, (HEIGHT, WIDTH))
    boxes = polygons.bounds()
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    jitter = torch.from_numpy(random.uniform(-0.12, 0.12, (60, 4))).float()
    rois = boxes + jitter * sides
    image, index = torch.zeros(60, dtype=torch.int64), torch.arange(60)
    targets = mask_targets(instance_bitmaps(polygons, boxes)[None], boxes, image, index, rois, 28) > 0
    truth = rasterize(polygons, rois, 28 * 16, 28 * 16).float()
    truth = avg_pool2d(truth, 16) >= 0.5
    ious = iou(targets, truth)
    assert ious.mean() > 0.99
    assert ious.quantile(0.05) > 0.98


def test_selecting_instances_renumbers_their_polygons(polygons: Polygons) -> None:
    second = polygons.select(torch.tensor([False, True]))
    assert second.count == 1
    assert torch.equal(drawn(second)[0], drawn(polygons)[1])
    none = polygons.select(torch.tensor([False, False]))
    assert none.count == 0
    assert drawn(none).shape == (0, HEIGHT, WIDTH)


def test_bounds_and_areas_of_instances_without_rings() -> None:
    square = np.array([[1, 2], [5, 2], [5, 9], [1, 9]], np.float32)
    polygons = Polygons.from_rings([[], [square]], (10, 10))
    assert polygons.bounds()[1].tolist() == [1, 2, 5, 9]
    assert polygons.areas().tolist() == [0, 28]
    assert not polygons.bounds()[0].isfinite().any()
    assert F.horizontal_flip(Polygons.from_rings([[]], (10, 10))).count == 1


def _through_torch_save(value: Polygons) -> Polygons:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda p: p.clone(), lambda p: pickle.loads(pickle.dumps(p)), _through_torch_save]
)
def test_copies_keep_the_polygons_and_the_canvas_size(copied, polygons: Polygons) -> None:
    other = copied(polygons)
    assert isinstance(other, Polygons)
    assert other.canvas_size == (HEIGHT, WIDTH)
    assert torch.equal(drawn(other), drawn(polygons))
