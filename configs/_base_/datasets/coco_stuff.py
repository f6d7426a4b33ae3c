"""COCO-Stuff 164k with 171 classes, in crops of 512 px.

With this file, deeplabv3_r50c_d8_80k_coco-stuff has 39.38 mIoU in MMSegmentation's configs/deeplabv3/metafile.yaml.

The data root contains images/{train,val}2017, and the PNGs in annotations/{train,val}2017.
"""

_base_ = ["semantic_512.py"]
fallback_meta = dict(classes="coco_stuff")
train_data = dict(dataset=dict(type="CocoStuff", split="train2017"))
val_data = dict(dataset=dict(type="CocoStuff", split="val2017"))
