"""Panoptic FPN (Kirillov et al. 2019, section 4), with the settings of Detectron2's Base-Panoptic-FPN.yaml."""

_base_ = ["mask-rcnn_fpn.py"]

model = dict(
    # The paper's λ_s, the weight of the semantic loss (SEM_SEG_HEAD.LOSS_WEIGHT); the instance losses have weight 1.
    semantic=dict(type="SemanticFPNHead", losses=[dict(type="CrossEntropy", loss_weight=0.5)]),
    merge=dict(score_threshold=0.5, overlap_threshold=0.5, stuff_area=4096),
)
