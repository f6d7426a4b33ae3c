"""SE-ResNets and SE-ResNeXts on ImageNet (Hu et al. 2018, section 5).

Batch size 1024, 100 epochs, learning rate 0.6, divided by 10 every 30 epochs. The paper states no weight decay;
ResNet's is used. The paper also samples classes evenly, which is omitted, since ImageNet is nearly balanced.
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
