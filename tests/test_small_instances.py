"""The semantic loss of Panoptic-DeepLab: the hardest pixels, with a larger weight for pixels of small instances."""

from __future__ import annotations

import math

import pytest
import torch
from panoptic_files import reader, write_panoptic
from test_panoptic_models import META, panoptic_deeplab
from torch.nn import functional as F

from chordate.errors import ConfigError
from chordate.ops.instance_centers import small_instance_weights
from chordate.ops.pixel_losses import CrossEntropy
from chordate.structures import IGNORED


def random_slots(seed: int) -> torch.Tensor:
    """The instance of each pixel `[2, 12, 16]`: three rectangles per image, of which later ones cover earlier ones;
    IGNORED elsewhere."""
    random = torch.Generator().manual_seed(seed)
    slots = torch.full((2, 12, 16), IGNORED, dtype=torch.int16)
    for image in slots:
        for own in range(3):
            top, left = (int(torch.randint(10, (), generator=random)) for _ in range(2))
            height, width = (int(torch.randint(1, 8, (), generator=random)) for _ in range(2))
            image[top : top + height, left : left + width] = own
    return slots


def slow_weights(slots: torch.Tensor, area: int, weight: float) -> torch.Tensor:
    """The pixel weights, computed by counting the pixels of each instance in its image one by one."""
    weights = torch.ones(slots.shape)
    for n, image in enumerate(slots.tolist()):
        pixels = [(y, x) for y, row in enumerate(image) for x in range(len(row))]
        for y, x in pixels:
            own = image[y][x]
            size = sum(image[v][u] == own for v, u in pixels)
            if own != IGNORED and size < area:
                weights[n, y, x] = weight
    return weights


def slow_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, fraction: float) -> float:
    """The mean of -w log p over the `fraction` of labeled pixels where it is largest (Yang et al. 2019, DeeperLab)."""
    losses = []
    for n, y, x in (labels != IGNORED).nonzero().tolist():
        exponentials = [math.exp(value) for value in logits[n, :, y, x].tolist()]
        probability = exponentials[labels[n, y, x]] / sum(exponentials)
        losses.append(-float(weights[n, y, x]) * math.log(probability))
    hardest = sorted(losses, reverse=True)[: math.ceil(fraction * len(losses))]
    return sum(hardest) / len(hardest)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("area", [0, 8, 20, 1000])
def test_pixels_of_small_instances_have_the_larger_weight(seed: int, area: int) -> None:
    slots = random_slots(seed)
    assert torch.equal(small_instance_weights(slots, 3, area, 3.0), slow_weights(slots, area, 3.0))


def test_the_area_of_an_instance_at_the_limit_is_not_small() -> None:
    slots = torch.full((1, 64, 70), IGNORED)
    slots[0, :, :64] = 0  # 4096 pixels
    assert (small_instance_weights(slots, 8, 4096, 3.0) == 1).all()
    slots[0, 0, 0] = IGNORED
    assert small_instance_weights(slots, 8, 4096, 3.0).sum() == 64 * 70 + 2 * 4095


@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
def test_the_hardest_weighted_pixels_are_averaged(fraction: float) -> None:
    torch.manual_seed(1)
    slots = random_slots(5)
    logits = torch.randn(2, 4, 12, 16, dtype=torch.float64)
    labels = torch.randint(-1, 4, (2, 12, 16)).short()
    weights = slow_weights(slots, 20, 3.0)
    assert 1 < weights.mean() < 3
    found = CrossEntropy(hard_fraction=fraction)(logits, labels, weights)
    assert float(found) == pytest.approx(slow_loss(logits, labels, weights, fraction), rel=1e-9)
    assert float(found) != pytest.approx(float(CrossEntropy(hard_fraction=fraction)(logits, labels)), rel=0.01)


def test_the_model_weights_small_things_but_not_stuff_in_its_semantic_loss(tmp_path) -> None:
    write_panoptic(tmp_path)
    dataset = reader(tmp_path, meta=META)
    batch = dataset.collate([dataset[0, 0], dataset[0, 1]], 32)
    targets = batch.targets
    areas = [int((targets.slots[0] == own).sum()) for own in (0, 2)]  # a cat and a dog; instance 1 is a crowd
    model = panoptic_deeplab(small_instance_area=max(areas)).eval()
    logits = F.interpolate(model.semantic(model.backbone_features(batch)), (32, 64), mode="bilinear").detach()
    weights = slow_weights(targets.slots, max(areas), 3.0)
    assert min(areas) < max(areas) and set(weights[targets.slots == IGNORED].tolist()) == {1.0}
    expected = slow_loss(logits.double(), targets.labels, weights, 0.2)
    assert model.loss(batch)["semantic"].item() == pytest.approx(expected, rel=1e-4)


def test_a_loss_without_weights_is_refused_at_build_unless_the_weight_is_1() -> None:
    head = {"type": "PanopticDeepLabHead", "channels": 32, "aspp_channels": 32, "losses": [{"type": "Dice"}]}
    message = (
        "PanopticDeepLabHead.loss: forward fails .*if the loss takes no pixel weights, set small_instance_weight=1"
    )
    with pytest.raises(ConfigError, match=message) as caught:
        panoptic_deeplab(semantic=head)
    assert "\n" not in str(caught.value)
    panoptic_deeplab(semantic=head, small_instance_weight=1)
