"""DeepLab v2, ResNet-101, output stride 8, 20,000 iterations on Pascal VOC 2012 and SBD (Chen et al. 2018, DeepLab,
section 4.1): crops of 321 px, scales 0.5 … 1.5, batch size 10.

The learning rate is 2.5e-4, and 2.5e-3 for the head, as in the authors' solver for ResNet-101. The authors start from
COCO-pretrained weights and fuse three scales; this config starts from ImageNet-pretrained weights and uses one scale,
for which no mIoU is published. Theirs is 76.35 mIoU on the validation set, without the CRF (table 4).
"""

_base_ = [
    "../_base_/models/deeplabv2.py",
    "../_base_/datasets/voc_semantic.py",
    "../_base_/schedules/poly.py",
]

train_data = dict(
    pipeline=[
        dict(type="RandomResize", min_size=188, max_size=564),  # range of the shorter side: (0.5 … 1.5) × 375
        dict(type="ClassLimitedCrop", size=321, max_fraction=1.0),
        dict(type="RandomHorizontalFlip", p=0.5),
    ],
    batch_size=10,
)
val_data = dict(pipeline=[])
optimizer = dict(lr=2.5e-4, base_batch_size=10, parts=dict(head=dict(lr_mult=10.0)))
schedule = dict(min_factor=0.0)
train = dict(iterations=20_000, eval_every=4_000, save_every=4_000, sync_bn=False)
