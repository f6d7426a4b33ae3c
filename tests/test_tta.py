"""Test-time augmentation: boxes are mapped back to the image and merged by NMS; masks and heatmaps are averaged."""

from dataclasses import replace

import pytest
import torch
from test_two_stage import META, batch_of, config, detector
from torch import nn
from torchvision.ops import nms, roi_align
from torchvision.transforms.v2 import functional as transform

import chordate
from chordate.contracts import Backbone, FeatureSpec
from chordate.errors import ConfigError
from chordate.models.detector_tta import DetectorTTA, average_maps, merge_detections
from chordate.registry import MODELS
from chordate.structures import Batch, DatasetMeta, Detections, ImageInfo, Skeleton

SKELETON = Skeleton(("nose", "left_eye", "right_eye"))
HEADS = {
    "mask": {"type": "MaskHead", "convs": 1, "channels": 8},
    "keypoint": {"type": "KeypointHead", "convs": 1, "channels": 8},
}


def noise_batch(*sizes: tuple[int, int], side: int = 128) -> Batch:
    """A batch of noise images of the given sizes (height, width), padded to squares."""
    noise = torch.Generator().manual_seed(1)
    images = torch.zeros(len(sizes), 3, side, side, dtype=torch.uint8)
    for (height, width), into in zip(sizes, images):
        coarse = torch.rand(1, 3, height // 8, width // 8, generator=noise)
        into[:, :height, :width] = transform.resize(255 * coarse, [height, width])[0].to(torch.uint8)
    infos = [ImageInfo(i, f"{i}.jpg", 2 * height, 3 * width) for i, (height, width) in enumerate(sizes)]
    return Batch(images, torch.tensor(sizes), infos)


def resized(batch: Batch, scale: float) -> Batch:
    """The batch with each image resized separately, as in a pipeline."""
    scaled = []
    for image, (height, width) in zip(batch.images, batch.sizes.tolist()):
        scaled.append(transform.resize(image[:, :height, :width], [round(height * scale), round(width * scale)]))
    sizes = torch.tensor([image.shape[-2:] for image in scaled])
    images = torch.zeros(len(scaled), 3, *sizes.amax(0).tolist(), dtype=torch.uint8)
    for image, into in zip(scaled, images):
        into[:, : image.shape[1], : image.shape[2]] = image
    return Batch(images, sizes, batch.infos)


def mirror(batch: Batch) -> Batch:
    images = torch.zeros_like(batch.images)
    for image, (height, width), into in zip(batch.images, batch.sizes.tolist(), images):
        into[:, :height, :width] = image[:, :height, :width].flip(-1)
    return Batch(images, batch.sizes, batch.infos)


def random_detector(tta=None, skeleton=SKELETON, **changes) -> nn.Module:
    """A Mask and Keypoint R-CNN with random weights that detects many objects in any image."""
    torch.manual_seed(0)
    box = {"type": "BoxHead", "trunk": {"type": "ConvFC", "fc_channels": 32}, "detections_per_image": 20}
    settings = {**config(), "box": box, **HEADS, "tta": tta, **changes}
    meta = replace(META, skeleton=skeleton, extra={} if skeleton else {"num_keypoints": 3})
    model = MODELS.build(settings, meta=meta).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("box.cls_score.weight", "rpn.", "mask.", "keypoint.")):
                parameter.mul_(30 if "box" in name else 2)
    return model


def test_tta_with_scale_1_and_no_flips_equals_the_detector_without_tta():
    batch = noise_batch((96, 128), (128, 80))
    for tta in ({}, {"scales": [1]}, {"flip": False}):
        (augmented,) = DetectorTTA(**tta).augment(batch, 32)
        assert augmented.images is batch.images and augmented.sizes is batch.sizes
    assert random_detector().tta is None
    plain, same = random_detector()(batch), random_detector({})(batch)
    for one, other in zip(plain, same):
        assert len(one) > 5
        for name in ("boxes", "scores", "labels", "masks", "keypoints"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_a_single_scale_equals_the_detector_on_the_resized_image():
    """Keypoints are not compared, since heatmap peaks are located at pixels of the original batch."""
    batch = noise_batch((96, 128), (128, 80))
    smaller = resized(batch, 0.75)
    for result, expected in zip(random_detector({"scales": [0.75]})(batch), random_detector()(smaller), strict=True):
        assert len(result) == len(expected) > 5
        for name in ("boxes", "scores", "labels"):
            torch.testing.assert_close(getattr(result, name), getattr(expected, name))
        assert (result.masks == expected.masks).float().mean() > 0.9999


def test_with_flips_a_mirrored_image_gives_the_mirrored_detections():
    """For any model, an image and its mirror image have the same augmented batches."""
    batch = noise_batch((96, 128), (128, 80))
    model = random_detector({"scales": [0.75, 1.0], "flip": True})
    assert not torch.equal(
        random_detector()(batch)[0].scores, random_detector()(mirror(batch))[0].scores
    )  # without TTA, mirroring changes the scores
    for result, other, info in zip(model(batch), model(mirror(batch)), batch.infos, strict=True):
        assert len(result) == len(other) > 5
        torch.testing.assert_close(result.scores, other.scores)
        assert torch.equal(result.labels, other.labels)
        torch.testing.assert_close(result.boxes[:, [0, 2]], info.width - other.boxes[:, [2, 0]])
        torch.testing.assert_close(result.boxes[:, [1, 3]], other.boxes[:, [1, 3]])
        assert (result.masks == other.masks.flip(-1)).float().mean() > 0.9999
        swapped = other.keypoints[:, [0, 2, 1]]  # mirroring swaps left and right eye
        torch.testing.assert_close(result.keypoints[..., 0], info.width - swapped[..., 0])
        torch.testing.assert_close(result.keypoints[..., 1:], swapped[..., 1:])


class Bright(Backbone):
    """A backbone that averages the image over cells of 4×4 pixels, so its feature map is mirrored with the image."""

    name = "Bright"

    def __init__(self):
        super().__init__()
        self.out_features = {"c2": FeatureSpec(3, 4)}
        self.any = nn.Parameter(torch.zeros(1))  # the model's device is that of its parameters

    def forward(self, images):
        return {"c2": nn.functional.avg_pool2d(images, 4)}


class Untrained(nn.Module):
    """Base class of heads without a loss."""

    def loss(self, features, rois, targets):
        raise NotImplementedError


class NoProposals(nn.Module):
    def loss(self, outputs, sizes, targets):
        raise NotImplementedError

    def forward(self, features):
        return features

    def predict(self, outputs, sizes, training=False):
        return sizes


class BrightBox(Untrained):
    """A box head that detects the bright rectangle; its score is the x of the left edge divided by the image width."""

    nms_threshold, detections_per_image = 0.5, 5

    def sample(self, proposals, targets):
        raise NotImplementedError

    def predict(self, features, proposals):
        detections = []
        for cells, size in zip(features["c2"][:, 0], proposals):
            rows, columns = (cells > 0.5).any(1).nonzero()[:, 0], (cells > 0.5).any(0).nonzero()[:, 0]
            box = 4.0 * torch.stack((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            detections.append(Detections(box[None], box[None, 0] / size[1], torch.zeros(1, dtype=torch.int64)))
        return detections


class Ramp(Untrained):
    """A mask head whose masks rise from 0.1 at the left edge of the box to 1.1 at the right edge, for any image."""

    def predict(self, features, detections):
        return [(0.1 + (torch.arange(8) + 0.5) / 8).expand(len(d), 8, 8) for d in detections]


class ColorHeatmaps(Untrained):
    """A keypoint head with one heatmap per color channel: the brightness of that channel in the box."""

    def predict(self, features, detections):
        boxes = [image.boxes for image in detections]
        maps = roi_align(features["c2"], boxes, 8, spatial_scale=0.25, aligned=True, sampling_ratio=2)
        return list(maps.split([len(b) for b in boxes]))


def bright_detector(tta) -> nn.Module:
    return MODELS.build(
        {
            "type": "TwoStageDetector", "backbone": Bright(), "rpn": NoProposals(), "box": BrightBox(),
            "mask": Ramp(), "keypoint": ColorHeatmaps(), "preprocess": {"mean": [0.0] * 3, "std": [255.0] * 3},
            "tta": tta,
        },
        meta=DatasetMeta(classes=("bright",), skeleton=SKELETON),
    ).eval()  # fmt: skip


def bright_batch() -> Batch:
    """A rectangle whose corners are brightest in red (top left), green (top right) and blue (bottom right)."""
    images = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    images[0, :, 16:48, 16:40] = 160
    images[0, 0, 16:24, 16:24] = images[0, 1, 16:24, 32:40] = images[0, 2, 40:48, 32:40] = 250
    return Batch(images, torch.tensor([[64, 80]]), [ImageInfo(1, "", 64, 80)])


def test_boxes_are_merged_by_nms_and_masks_averaged_at_the_merged_box():
    """The box is the same in both augmented batches, so one detection remains, with the higher score: (80 - 40) / 80
    in the mirrored batch. Its mask, mirrored back, decreases to the right, so the mean is 0.6 everywhere."""
    (plain,), (augmented,) = bright_detector(None)(bright_batch()), bright_detector({"flip": True})(bright_batch())
    assert plain.boxes.tolist() == augmented.boxes.tolist() == [[16, 16, 40, 48]]
    assert plain.scores.item() == pytest.approx(16 / 80) and augmented.scores.item() == pytest.approx(40 / 80)
    assert not plain.masks[0, 18:46, 16:24].any() and plain.masks[0, 18:46, 28:38].all()
    assert augmented.masks[0, 18:46, 18:38].all() and augmented.masks.sum() <= 32 * 24


def test_keypoints_are_decoded_from_averaged_heatmaps_with_left_and_right_swapped():
    """The nose (red) is not swapped. The eyes (green, blue) are swapped in the mirrored batch, so each eye's averaged
    heatmap has peaks at the green and at the blue corner, and the eye is detected at one of them."""
    (plain,), (augmented,) = bright_detector(None)(bright_batch()), bright_detector({"flip": True})(bright_batch())
    corners = {"red": (20, 20), "green": (36, 20), "blue": (36, 44)}
    for place, color in zip(plain.keypoints[0], corners):
        assert (place[:2] - torch.tensor(corners[color])).abs().max() < 4
    assert (augmented.keypoints[0, 0] - plain.keypoints[0, 0]).abs().max() < 1e-3
    for eye in (1, 2):
        distance = min(
            (augmented.keypoints[0, eye, :2] - torch.tensor(corners[c])).abs().max() for c in ("green", "blue")
        )
        assert distance < 4
        assert augmented.keypoints[0, eye, 2] < plain.keypoints[0, eye, 2]  # the peak is averaged with a lower value


def random_detections(generator: torch.Generator, count: int) -> Detections:
    corner = 60 * torch.rand(count, 2, generator=generator)
    boxes = torch.cat((corner, corner + 10 + 30 * torch.rand(count, 2, generator=generator)), 1)
    labels = torch.randint(3, (count,), generator=generator)
    return Detections(boxes, torch.rand(count, generator=generator), labels)


def test_merging_is_nms_within_classes_over_all_augmented_batches():
    generator = torch.Generator().manual_seed(3)
    detections = [
        [random_detections(generator, count) for count in counts] for counts in ((20, 0, 7), (30, 0, 0), (25, 1, 9))
    ]
    for image, merged in enumerate(merge_detections(detections, 0.5, 12)):
        boxes, scores, labels = (
            torch.cat([getattr(v[image], name) for v in detections]) for name in ("boxes", "scores", "labels")
        )
        keep = torch.cat(
            [rows[nms(boxes[rows], scores[rows], 0.5)] for k in range(3) for rows in [(labels == k).nonzero()[:, 0]]]
        )
        keep = keep[scores[keep].argsort(descending=True)][:12]
        for name, values in (("boxes", boxes), ("scores", scores), ("labels", labels)):
            assert torch.equal(getattr(merged, name), values[keep])


def test_inverse_boxes_undo_transform_boxes():
    batch = noise_batch((90, 118), (128, 75))
    detections = [random_detections(torch.Generator().manual_seed(4), 9) for _ in range(2)]
    for image_detections in detections:
        image_detections.boxes *= 0.75  # moves the boxes into the images
    scales = [0.31, 0.31, 1, 1, 1.7, 1.7]
    batches = DetectorTTA(scales=[0.31, 1, 1.7], flip=True).augment(batch, 32)
    for augmented, scale, flip in zip(batches, scales, [False, True] * 3, strict=True):
        assert augmented.flip == flip
        assert augmented.sizes.tolist() == [[round(side * scale) for side in size] for size in batch.sizes.tolist()]
        transformed = augmented.transform_boxes(detections)
        for transformed_image, inverted, size in zip(
            transformed, augmented.inverse_boxes(transformed), augmented.sizes
        ):
            assert (transformed_image.boxes[:, :2] < transformed_image.boxes[:, 2:]).all()
            assert (transformed_image.boxes >= -1e-3).all() and (
                transformed_image.boxes[:, 2:] <= size.flip(0) + 1e-3
            ).all()
            torch.testing.assert_close(inverted.boxes, detections[0].boxes)


def test_masks_and_heatmaps_of_mirrored_batches_are_mirrored_back():
    batch = noise_batch((64, 64))
    batches = DetectorTTA(flip=True).augment(batch, 1)
    maps = [[torch.rand(4, 3, 5, 5)], [torch.rand(4, 3, 5, 5)]]
    (mean,) = average_maps(maps, batches, mirrored=(0, 2, 1))
    for channel, other in enumerate((0, 2, 1)):
        expected = (maps[0][0][:, channel] + maps[1][0][:, other].flip(-1)) / 2
        torch.testing.assert_close(mean[:, channel], expected)


def test_one_stage_detectors_and_cascades_support_tta():
    batch = noise_batch((128, 128))
    retina = {"type": "OneStageDetector", "head": {"type": "RetinaHead", "convs": 1, "score_threshold": 0.0}}
    retina |= {"backbone": config()["backbone"], "neck": {"type": "FPN", "channels": 16}}
    stage = {"score_threshold": 0.0, "trunk": {"type": "ConvFC", "fc_channels": 32}}
    for settings in (retina, config(box={"type": "CascadeHead", "stage": stage})):
        torch.manual_seed(0)
        model = MODELS.build({**settings, "tta": {"flip": True}}, meta=META).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)  # makes the scores differ
        (result,), (other,) = model(batch), model(mirror(batch))
        assert len(result) == len(other) > 5
        torch.testing.assert_close(result.scores, other.scores)
        torch.testing.assert_close(result.boxes[:5, 0], batch.infos[0].width - other.boxes[:5, 2])


def test_predict_on_images_uses_tta():
    model = random_detector({"scales": [0.5, 1.0], "flip": True}).float()
    model.pipeline = []
    image = noise_batch((96, 128)).images[0, :, :96]
    (result,), (other,) = chordate.predict(model, image), chordate.predict(model, image.flip(-1))
    assert len(result) > 5 and result.masks.shape[1:] == (96, 128)
    torch.testing.assert_close(result.boxes[:3, 0], 128 - other.boxes[:3, 2], atol=1e-2, rtol=0)


def test_tta_leaves_training_unchanged():
    batch = batch_of(3, 1)
    plain, augmented = detector(), detector(tta={"flip": True})
    for model in (plain, augmented):
        torch.manual_seed(1)
        model.losses = model(batch)
    assert {name: loss.item() for name, loss in plain.losses.items()} == {
        name: loss.item() for name, loss in augmented.losses.items()
    }


@pytest.mark.parametrize(
    "tta, message",
    [
        ({"scale": [1]}, 'unknown setting .* "scale"; did you mean "scales"'),
        ({"scales": []}, r"scales must be a list of numbers > 0 with at least 1 item"),
        ({"scales": [0, 1]}, r"tta\.scales\.0 must be > 0, got 0"),
        ({"scales": 2}, r"tta\.scales must be a list of numbers > 0.*, got 2"),
        ({"flip": "yes"}, "flip must be True or False"),
        ([0.5], r"tta must be a dict or None"),
    ],
)
def test_an_invalid_setting_of_tta_is_a_one_line_error(tta, message):
    with pytest.raises(ConfigError, match=message):
        detector(tta=tta)


def test_tta_with_flips_needs_the_names_of_the_keypoints():
    model = random_detector({"flip": True}, skeleton=None)
    with pytest.raises(ConfigError, match="names must be known"):
        model(noise_batch((96, 128)))
