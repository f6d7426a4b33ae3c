"""ConvNeXts on ImageNet (Liu et al. 2022, appendix A.1, table 5)."""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_convnext.py",
    "../_base_/schedules/convnext_300e.py",
]

model = dict(
    backbone=dict(type="convnext_tiny", drop_path=0.1),
    head=dict(norm="LN", label_smoothing=0.1),
    mix=[dict(type="MixUp", alpha=0.8), dict(type="CutMix", alpha=1.0)],
)
