"""Simple Baselines, ResNet-50, on crops of COCO people of 384×288 px.

For this size, the target Gaussians have a standard deviation of 3 cells, as in the authors' code.
"""

_base_ = [
    "../_base_/models/simple-baseline.py",
    "../_base_/datasets/coco_pose_384x288.py",
    "../_base_/schedules/pose_140e.py",
]

model = dict(head=dict(sigma=3.0))
