"""ConvNeXts with ImageNet-1k weights, fine-tuned at 384 px (Liu et al. 2022, appendix A.2, table 6).

Layer-wise learning-rate decay: each group of three blocks has 0.7 times the learning rate of the group after it. The
head is reinitialized.
"""

_base_ = ["./convnext_tiny_imagenet.py"]

model = dict(backbone=dict(type="convnext_base", drop_path=0.8, pretrained=True), mix=[])
train_data = dict(
    pipeline=[
        dict(type="RandomResizedCrop", size=384, interpolation="bicubic"),
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="RandAugment", num_ops=2, magnitude=27, num_magnitude_bins=31, fill=(124, 116, 104)),
        dict(type="NoiseErasing", p=0.25),
    ],
    batch_size=32,
)
# Images are resized to a square without cropping, which changes their aspect ratio.
val_data = dict(pipeline=[dict(type="Resize", size=(384, 384), interpolation="bicubic")])
optimizer = dict(lr=5e-5, weight_decay=1e-8, layer_decay=0.7, layer_blocks=3, base_batch_size=512)
schedule = dict(min_factor=0.02, warmup_epochs=0)
train = dict(epochs=30, ema=None)
