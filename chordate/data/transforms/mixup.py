"""Mixup for detectors: two pictures, one shining through the other, with the instances of both (Zhang et al. 2019)."""

import torch
from torch import Tensor

from chordate import checks
from chordate.data.transforms.mixing import Sample, draw_partners, join, same_size
from chordate.registry import TRANSFORMS


@TRANSFORMS.register_module()
class DetectionMixUp:
    """Blend this picture with another (Bag of Freebies for Training Object Detection, section 3.1).

    Neither is scaled, so that objects keep their shapes; the smaller one is padded. Every instance counts in full, as
    in YOLOX; the paper weighs losses by the share of the picture. (v2's MixUp blends the batches of classifiers.)

    Args:
        alpha: the share of this picture is drawn from Beta(alpha, alpha); 1.5 in the paper. YOLOX takes the half: a
            very large number.
        p: share of the samples that are blended.
    """

    def __init__(self, alpha: float = 1.5, p: float = 1.0):
        checks.number("DetectionMixUp: alpha", alpha, above=0)
        checks.share("DetectionMixUp", p=p)
        self.alpha, self.p = alpha, p

    def __call__(self, sample: Sample) -> Sample:
        if torch.rand(()) >= self.p:
            return sample
        for other in draw_partners(sample, 1, "DetectionMixUp"):
            share = torch.distributions.Beta(self.alpha, self.alpha).sample()
            pair = same_size([sample, other])
            one, two = (each["image"].as_subclass(Tensor) for each in pair)
            blend = share * one + (1 - share) * two
            sample = join(blend if one.is_floating_point() else blend.round().to(one.dtype), pair)
        return sample
