"""Simple Baselines, ResNet-50, on crops of COCO people of 256×192 px."""

_base_ = [
    "../_base_/models/simple-baseline.py",
    "../_base_/datasets/coco_pose.py",
    "../_base_/schedules/pose_140e.py",
]
