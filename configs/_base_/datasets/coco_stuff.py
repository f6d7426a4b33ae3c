"""COCO-Stuff 164k with 171 classes, in crops of 512 px.

The config deeplabv3_r50c_d8_80k_coco-stuff uses this file; MMSegmentation's model has 39.38 mIoU (its
configs/deeplabv3/metafile.yaml).

The data root contains images/{train,val}2017, and the PNGs in annotations/{train,val}2017.
"""

_base_ = ["semantic_512.py"]
fallback_meta = dict(classes="coco_stuff")
train_data = dict(dataset=dict(type="CocoStuff", split="train2017"))
val_data = dict(dataset=dict(type="CocoStuff", split="val2017"))
