"""SE-ResNet-50 on ImageNet (Hu et al. 2018, table 2: 23.29 % error).

Section 5: batches of 1024, rate 0.6 divided by 10 every 30 epochs, 100 epochs. Weight decay is not told; ResNet's is
taken. (Classes are drawn evenly there; ImageNet's are nearly so.)
"""

_base_ = [
    "../_base_/models/imagenet_classifier.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/schedules/imagenet_90e.py",
]

model = dict(backbone=dict(type="seresnet50"))
train_data = dict(batch_size=128)
optimizer = dict(lr=0.6, base_batch_size=1024)
schedule = dict(milestones=[30, 60, 90])
train = dict(epochs=100)
