"""DeepLabV3 (Chen et al. 2017) at output stride 8, with an auxiliary head on c4, as torchvision and MMSegmentation
train it.
"""

model = dict(
    type="SemanticSegmenter",
    backbone=dict(type="resnet50", out=["c4", "c5"], output_stride=8, pretrained=True),
    head=dict(type="DeepLabV3Head"),
    auxiliary=dict(type="FCNHead", level="c4"),
)
