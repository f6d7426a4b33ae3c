"""Simple Baselines, ResNet-50, on 256×192 px crops of people in COCO."""

_base_ = [
    "../_base_/models/simple-baseline.py",
    "../_base_/datasets/coco_pose.py",
    "../_base_/schedules/pose_140e.py",
]
