"""SE-ResNets and SE-ResNeXts on ImageNet (Hu et al. 2018, section 5).

Batches of 1024, rate 0.6 divided by 10 every 30 epochs, 100 epochs. The paper states no weight decay; this is
ResNet's. (The paper balances classes when sampling; ImageNet's are nearly balanced.)
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/schedules/imagenet_90e.py",
]

model = dict(backbone=dict(type="seresnet50"))
train_data = dict(batch_size=128)
optimizer = dict(lr=0.6, base_batch_size=1024)
schedule = dict(milestones=[30, 60, 90])
train = dict(epochs=100)
