"""Mask R-CNN, ResNet-50, FPN, large-scale jitter and copy-paste on COCO (Ghiasi et al. 2021).

"Res50-FPN (1024) w/ Copy-Paste" in the authors' repository: 48.3 box and 42.4 mask AP.

The authors' settings (tensorflow/tpu, `copy_paste/configs/maskrcnn_resnet50_1024.yaml`): synchronized BatchNorm in
every component; two convolutions in the RPN; four convolutions and two fully connected layers in the box head; 270,000
steps with batch size 256. Here, the box head has one fully connected layer, as in Detectron2's and torchvision's
versions of this recipe, and the RPN has no BatchNorm.
"""

_base_ = ["../_base_/models/mask-rcnn_fpn.py", "../_base_/datasets/coco_instance_lsj_copypaste.py"]

model = dict(
    backbone=dict(norm="BN", frozen_stages=-1),
    neck=dict(norm="BN"),
    rpn=dict(convs=2),
    box=dict(trunk=dict(convs=4, fcs=1, norm="BN")),
    mask=dict(norm="BN"),
)
optimizer = dict(type="SGD", lr=0.32, momentum=0.9, weight_decay=4e-5, base_batch_size=256)
# The learning rate drops after 90, 95 and 97.5 % of the training.
schedule = dict(type="step", milestones=[530, 560, 575], gamma=0.1, warmup_iters=1000, warmup_factor=0.01)
train = dict(epochs=589, sync_bn=True, channels_last="auto", save_best="segm_AP", eval_every=10)
