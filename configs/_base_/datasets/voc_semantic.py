"""Pascal VOC 2012 for semantic segmentation, with SBD's labels in training (train_aug), in crops of 512 px.

The data root is the folder VOCdevkit. SBD's labels are read from VOC2012/SegmentationClassAug or benchmark_RELEASE/.
"""

_base_ = ["semantic_512.py"]
fallback_meta = dict(classes="voc_semantic")
train_data = dict(dataset=dict(type="VocSemantic", split="train_aug"))
val_data = dict(dataset=dict(type="VocSemantic", split="val"))
