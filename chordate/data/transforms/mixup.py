"""MixUp for detectors: blends two images and keeps the instances of both (Zhang et al. 2019)."""

import torch
from torch import Tensor

from chordate.arguments import Fraction, PositiveFloat
from chordate.data.transforms.mixing import Sample, check_instances, draw_partners, join, same_size
from chordate.registry import TRANSFORMS


@TRANSFORMS.register_module()
class DetectionMixUp:
    """Blend an image with another one (Bag of Freebies for Training Object Detection, section 3.1).

    Neither image is scaled, so that objects keep their shapes; both are padded to the larger height and the larger
    width. All instances have the same loss weight, 1, as in YOLOX; in the paper, the loss weight is the image's weight
    in the blend. (v2's MixUp blends batches, for classifiers.)

    Args:
        alpha: the weight of this image is drawn from Beta(alpha, alpha); 1.5 in the paper. A very large alpha
            gives YOLOX's constant weight of 0.5.
        p: probability per sample.

    Raises:
        ConfigError: the samples have no instances.
    """

    def __init__(self, alpha: PositiveFloat = 1.5, p: Fraction = 1.0):
        self.alpha, self.p = alpha, p

    def __call__(self, sample: Sample) -> Sample:
        check_instances(sample, "DetectionMixUp")
        if torch.rand(()) >= self.p:
            return sample
        for other in draw_partners(sample, 1, "DetectionMixUp"):
            weight = torch.distributions.Beta(self.alpha, self.alpha).sample()
            pair = same_size([sample, other])
            one, two = (each["image"].as_subclass(Tensor) for each in pair)
            blend = weight * one + (1 - weight) * two
            sample = join(blend if one.is_floating_point() else blend.round().to(one.dtype), pair)
        return sample
