"""A classifier of photos: the last map averaged over its cells, and one linear layer (He et al. 2016, table 1)."""

model = dict(
    type="ImageClassifier",
    backbone=dict(type="resnet50"),
    head=dict(type="ClassificationHead"),
    preprocess=dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
)
