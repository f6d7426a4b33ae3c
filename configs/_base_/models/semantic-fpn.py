"""Semantic FPN (Kirillov et al. 2019, Panoptic Feature Pyramid Networks, section 3).

The settings are MMSegmentation's. The backbone is ResNet-50 with a deep stem (ResNet-C, MMSegmentation's "v1c").
"""

model = dict(
    type="SemanticSegmenter",
    backbone=dict(type="resnet50c", out=["c2", "c3", "c4", "c5"], pretrained=True),
    neck=dict(type="FPN", extra=None),
    head=dict(type="SemanticFPNHead", norm="BN", dropout=0.1),
)
