"""WRNs on CIFAR (Zagoruyko & Komodakis 2016, section 3): random shifts with reflection padding."""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/schedules/wrn_200e.py",
]

model = dict(backbone=dict(type="wrn16_4_cifar"))
train_data = dict(
    pipeline=[
        dict(type="RandomCrop", size=32, padding=4, padding_mode="reflect"),
        dict(type="RandomHorizontalFlip", p=0.5),
    ],
)
