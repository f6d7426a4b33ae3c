"""RetinaNet, ResNet-50, FPN, 1× with multi-scale training on COCO (Lin et al. 2017; Detectron2's settings)."""

_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/coco_detection_multiscale.py",
    "../_base_/schedules/1x.py",
]
optimizer = dict(lr=0.01)  # SOLVER.BASE_LR in Detectron2's Base-RetinaNet.yaml
