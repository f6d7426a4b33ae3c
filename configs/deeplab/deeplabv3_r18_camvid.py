"""DeepLabV3 with an ImageNet-pretrained ResNet-18 on CamVid, small enough for a CPU."""

_base_ = ["../_base_/models/deeplabv3.py", "../_base_/datasets/camvid.py"]

model = dict(backbone=dict(type="resnet18", output_stride=16), head=dict(channels=128), auxiliary=dict(channels=64))
optimizer = dict(type="AdamW", lr=1e-3, weight_decay=0.01, base_batch_size=8)
schedule = dict(type="poly", power=0.9, warmup_iters=50)
train = dict(epochs=30, save_best="mIoU", channels_last="auto", log_every=10)
