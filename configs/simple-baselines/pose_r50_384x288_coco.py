"""Simple Baselines, ResNet-50, crops of 384×288, COCO people. The authors' code has Gaussians of 3 cells for it."""

_base_ = [
    "../_base_/models/simple-baseline.py",
    "../_base_/datasets/coco_pose_384x288.py",
    "../_base_/schedules/pose_140e.py",
]

model = dict(head=dict(sigma=3.0))
