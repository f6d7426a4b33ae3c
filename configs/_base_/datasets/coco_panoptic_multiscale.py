"""COCO 2017 things and stuff, with flips and a shortest edge sampled from 640, 672 … 800 px, as in Detectron2.

The data root contains train2017/, val2017/, annotations/panoptic_{train,val}2017.json, and the PNGs in
annotations/panoptic_{train,val}2017/.
"""

_base_ = ["coco_detection_multiscale.py"]

fallback_meta = dict(classes="coco_panoptic", stuff="coco_panoptic")
train_data = dict(
    dataset=dict(
        _delete_=True, type="CocoPanoptic", annotations="annotations/panoptic_train2017.json", images="train2017"
    )
)
val_data = dict(
    dataset=dict(_delete_=True, type="CocoPanoptic", annotations="annotations/panoptic_val2017.json", images="val2017")
)
metric = dict(type="PanopticMetric")
