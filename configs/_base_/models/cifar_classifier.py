"""A classifier of CIFAR's pictures. The paper takes the mean picture away; the mean color and deviation do as well."""

model = dict(
    type="ImageClassifier",
    head=dict(type="ClassificationHead"),
    preprocess=dict(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7)),
)
