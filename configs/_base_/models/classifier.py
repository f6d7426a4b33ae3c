"""A classifier: the last map averaged over its cells, and one linear layer (He et al. 2016, table 1)."""

model = dict(type="ImageClassifier", head=dict(type="ClassificationHead"))
