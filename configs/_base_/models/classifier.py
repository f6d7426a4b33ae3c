"""Image classifier: global average pooling of the last feature map, and a linear layer (He et al. 2016, table 1)."""

model = dict(type="ImageClassifier", head=dict(type="ClassificationHead"))
