"""Simple Baselines, ResNet-50, on 256×192 px crops of people in COCO.

70.4 keypoint AP in Xiao et al. 2018, table 2, on the boxes of a detector with 56.4 AP on people.
"""

_base_ = [
    "../_base_/models/simple-baseline.py",
    "../_base_/datasets/coco_pose.py",
    "../_base_/schedules/pose_140e.py",
]
