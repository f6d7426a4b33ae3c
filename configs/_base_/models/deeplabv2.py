"""DeepLab v2 (Chen et al. 2018, DeepLab, section 3.2) with output stride 8.

The backbone is ResNet-101, whose batch norms are frozen as in the authors' models.
"""

model = dict(
    type="SemanticSegmenter",
    backbone=dict(type="resnet101", out=["c5"], output_stride=8, norm="FrozenBN", pretrained=True),
    head=dict(type="DeepLabV2Head"),
)
