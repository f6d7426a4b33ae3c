"""Simple Baselines (Xiao et al. 2018, section 3): a backbone, three deconvolutions, and one heatmap per keypoint."""

model = dict(
    type="PoseEstimator",
    backbone=dict(type="resnet50", out=["c5"], pretrained=True),
    head=dict(type="DeconvHead"),
)
