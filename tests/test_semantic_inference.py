"""Inference of semantic segmentation: scales and flips, sizes that are not multiples of the stride, and memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as transform

import chordate
from chordate.errors import ConfigError
from chordate.models.semantic_tta import SemanticTTA
from chordate.structures import Batch, DatasetMeta, ImageInfo, SemanticTargets

META = DatasetMeta(("a", "b", "c"))
HEADS = ["FCNHead", "DeepLabV3Head", "DeepLabV3PlusHead", "PSPHead", "SemanticFPNHead"]


def segmenter(head: str = "FCNHead", **settings) -> chordate.Model:
    backbone = {"type": "resnet18", "base_channels": 8, "out": ["c2", "c3", "c4", "c5"]}
    model = {"type": "SemanticSegmenter", "backbone": backbone, "head": {"type": head}, **settings}
    torch.manual_seed(0)
    return chordate.build_model({"model": model}, meta=META, pretrained=False).eval()


def batch_of(*sizes: tuple[int, int]) -> Batch:
    """A batch of random images of the given sizes, padded to the largest height and width."""
    torch.manual_seed(1)
    height, width = (max(sides) for sides in zip(*sizes))
    images = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    for image, (h, w) in zip(images, sizes):
        image[:, :h, :w] = torch.randint(0, 256, (3, h, w))
    infos = [ImageInfo(number, f"{number}.png", *size) for number, size in enumerate(sizes)]
    return Batch(images, torch.tensor(sizes), infos)


def plain_average(model, image: torch.Tensor, scales: list[float]) -> torch.Tensor:
    """Mean probabilities `[K, H, W]` of one image, with a separate prediction for each scale and flip. The sides must
    be multiples of the stride 32 at each scale."""
    total = 0
    for scale in scales:
        size = [round(side * scale) for side in image.shape[-2:]]
        resized = image if scale == 1 else transform.resize(image, size, antialias=True)
        for flip in (False, True):
            view = resized.flip(-1) if flip else resized
            logits = model.logits(view[None], torch.tensor([size]))
            probabilities = F.interpolate(logits, image.shape[-2:], mode="bilinear").softmax(1)[0]
            total = total + (probabilities.flip(-1) if flip else probabilities)
    return total / (2 * len(scales))


def test_scales_and_mirroring_are_the_mean_of_the_images_predicted_alone():
    model, batch, scales = segmenter(), batch_of((64, 128)), [0.5, 1.0, 2.0]
    with torch.no_grad():
        mean = SemanticTTA(scales, flip=True)(batch.images, batch.sizes, model.logits, 32)[0]
        torch.testing.assert_close(mean, plain_average(model, batch.images[0], scales), atol=1e-5, rtol=0)
    assert not torch.allclose(mean, plain_average(model, batch.images[0], [1.0]), atol=1e-4)


def test_a_mirrored_image_gives_the_mirrored_prediction():
    model, batch = segmenter(tta={"scales": [0.75, 1.0], "flip": True}), batch_of((64, 96))
    mirrored = Batch(batch.images.flip(-1), batch.sizes, batch.infos)
    (labels,), (other,) = model.predict(batch), model.predict(mirrored)
    assert torch.equal(other.labels.flip(-1), labels.labels)
    assert len(labels.labels.unique()) > 1


def test_one_scale_without_mirroring_changes_nothing():
    batch = batch_of((60, 90), (80, 50))
    plain, augmented = segmenter().predict(batch), segmenter(tta={}).predict(batch)
    for one, other in zip(plain, augmented):
        assert (one.labels == other.labels).float().mean() > 0.999


TTA = {"scales": [1.0, 1.5], "flip": True}
# Heads whose case with TTA is marked slow: DeepLabV3Plus covers the ASPP of DeepLabV3, and FCN has no pooling.
SIMPLER = ("FCNHead", "DeepLabV3Head")
WITH_TTA = [pytest.param(head, TTA, marks=[pytest.mark.slow] * (head in SIMPLER)) for head in HEADS]


@pytest.mark.parametrize(("head", "tta"), [*((head, None) for head in HEADS), *WITH_TTA])
def test_a_prediction_does_not_depend_on_the_other_images_of_the_batch(head, tta):
    """Global pooling (ASPP), pyramid pooling and GroupNorm (Semantic FPN) average over the image's own cells only."""
    model, both = segmenter(head, tta=tta, size_divisor=32), batch_of((60, 60), (96, 128), (90, 64), (60, 60))
    with torch.no_grad():  # centers the logits, so that all classes are predicted
        model.head.logits.bias -= model.logits(both.images, both.sizes).mean(dim=(0, 2, 3))
    together = model.predict(both)
    for index, (height, width) in enumerate(both.sizes.tolist()):
        sides = [-(-side // 32) * 32 for side in (height, width)]
        image = both.images[[index], :, : sides[0], : sides[1]]
        (alone,) = model.predict(Batch(image, both.sizes[[index]], [both.infos[index]]))
        assert alone.labels.shape == (height, width)
        assert torch.equal(together[index].labels, alone.labels)
    assert len(torch.cat([prediction.labels.flatten() for prediction in together]).unique()) == 3


def test_windows_and_scales_together_give_the_images_own_size():
    tta = {"scales": [0.5, 1.0], "flip": True}
    model = segmenter(tta=tta, window={"size": (48, 64), "stride": (32, 48)})
    batch = batch_of((70, 100))
    (prediction,) = model.predict(batch)
    assert prediction.labels.shape == (70, 100)
    whole = segmenter(tta=tta, window={"size": (70, 100), "stride": (70, 100)}).predict(batch)[0].labels
    assert torch.equal(whole, segmenter(tta=tta).predict(batch)[0].labels)


def test_a_scale_of_0_is_refused():
    with pytest.raises(ConfigError, match=r"tta\.scales\.1 must be > 0"):
        segmenter(tta={"scales": [1.0, 0.0]})


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [(97, 131), pytest.param((33, 40), marks=pytest.mark.slow), (20, 21)])
def test_a_batch_of_one_image_of_any_size_trains_and_is_predicted(head, size):
    """Global pooling leaves one value per channel, so a norm over a batch of one image has no variance."""
    model, batch = segmenter(head), batch_of(size)
    batch.targets = SemanticTargets(torch.randint(0, 3, (1, *size)).short())
    loss = sum(model.train().loss(batch).values())
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.eval().predict(batch)[0].labels.shape == size


LARGE = """
import resource, sys, torch, chordate
from chordate.structures import Batch, DatasetMeta, ImageInfo

classes, window, stride = map(int, sys.argv[1:])
model = dict(
    type="SemanticSegmenter",
    backbone=dict(type="resnet18", base_channels=8, out=["c2"]),
    head=dict(type="FCNHead"),
    window=dict(size=(window, window), stride=(stride, stride)),
)
meta = DatasetMeta(tuple(map(str, range(classes))))
model = chordate.build_model(dict(model=model), meta=meta, pretrained=False).eval()
size = (6000, 8000)
image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
(prediction,) = model.predict(Batch(image, torch.tensor([size]), [ImageInfo(0, "large", *size)]))
assert prediction.labels.shape == size
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "window", "stride"), [(19, 1024, 1000), (171, 512, 384), (171, 1024, 512)])
def test_an_image_of_8000_by_6000_pixels_is_predicted_in_less_than_4_gb(classes, window, stride):
    """The logits have stride 4; at the image's resolution, those of 171 classes would need 33 GB in float32."""
    command = [sys.executable, "-c", LARGE, str(classes), str(window), str(stride)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=True)
    assert int(run.stdout.split()[-1]) < 4e6  # kilobytes
