"""Simple Baselines: a backbone, three deconvolutions and a heatmap per keypoint (Xiao et al. 2018, section 3)."""

model = dict(
    type="PoseEstimator",
    backbone=dict(type="resnet50", out=["c5"], pretrained=True),
    head=dict(type="DeconvHead"),
)
