"""Simple Baselines, ResNet-50, crops of 256×192, COCO people."""

_base_ = [
    "../_base_/models/simple-baseline.py",
    "../_base_/datasets/coco_pose.py",
    "../_base_/schedules/pose_140e.py",
]
