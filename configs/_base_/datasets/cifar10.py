"""CIFAR-10: random crops of 32 px after padding by 4 px, and horizontal flips (He et al. 2016, section 4.2).

The paper subtracts the mean image; this config subtracts the mean color and divides by the standard deviation.

The data root contains `cifar-10-batches-py/`, or `train/` and `test/` with a folder for each class. It may be a zip
file.
"""

fallback_meta = dict(classes="cifar10")
model = dict(preprocess=dict(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7)))
train_data = dict(
    dataset=dict(type="CIFAR10", split="train"),
    pipeline=[dict(type="RandomCrop", size=32, padding=4), dict(type="RandomHorizontalFlip", p=0.5)],
    batch_size=128,
    workers=2,
)
val_data = dict(dataset=dict(type="CIFAR10", split="test"), pipeline=[], batch_size=250, workers=1)
metric = dict(type="AccuracyMetric")
