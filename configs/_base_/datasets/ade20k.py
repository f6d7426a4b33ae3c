"""ADE20K with 150 classes, in crops of 512 px.

The data root is the folder ADEChallengeData2016.
"""

_base_ = ["semantic_512.py"]
fallback_meta = dict(classes="ade20k")
train_data = dict(dataset=dict(type="ADE20K", split="training"))
val_data = dict(dataset=dict(type="ADE20K", split="validation"))
