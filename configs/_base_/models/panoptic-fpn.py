"""Panoptic FPN: Kirillov et al. 2019, section 4, in the settings of Detectron2's Base-Panoptic-FPN.yaml."""

_base_ = ["mask-rcnn_fpn.py"]

model = dict(
    # SEM_SEG_HEAD.LOSS_WEIGHT, the paper's λ of the semantic loss; that of the instances is 1.
    semantic=dict(type="SemanticFPNHead", losses=[dict(type="CrossEntropy", loss_weight=0.5)]),
    merge=dict(score_threshold=0.5, overlap_threshold=0.5, stuff_area=4096),
)
