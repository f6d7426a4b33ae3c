"""DeepLab v3 (Chen et al. 2017) with output stride 8 and an auxiliary head on c4 (MMSegmentation's settings).

The backbone is ResNet-50 with a deep stem (ResNet-C, MMSegmentation's "v1c").
"""

model = dict(
    type="SemanticSegmenter",
    backbone=dict(type="resnet50c", out=["c4", "c5"], output_stride=8, pretrained=True),
    head=dict(type="DeepLabV3Head", channels=512, project_kernel=3, aspp_dropout=0.0, dropout=0.1),
    auxiliary=dict(type="FCNHead", level="c4"),
)
