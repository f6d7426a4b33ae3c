"""COCO 2017 boxes and masks with large-scale jitter and copy-paste (Ghiasi et al. 2021, section 3 and table 1).

Two images are randomly flipped, scaled by 0.1 … 2.0 and cropped to at most 1024 px; then objects of one
image are pasted onto the other.
"""

_base_ = ["coco_detection_lsj.py"]
train_data = dict(
    dataset=dict(masks=True),
    pipeline=[
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="LargeScaleJitter", size=1024, scale=(0.1, 2.0)),
        dict(type="CopyPaste"),
    ],
)
