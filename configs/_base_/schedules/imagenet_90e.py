"""90 epochs of ImageNet, batch size 256, weight decay 1e-4; learning rate 0.1, divided by 10 after epochs 30 and 60.

He et al. 2016, section 3.4, divide the learning rate when the error plateaus. These milestones are from He et al. 2016,
Identity Mappings, appendix, and from fb.resnet.torch.
"""

optimizer = dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4, base_batch_size=256)
schedule = dict(type="step", milestones=[30, 60], gamma=0.1)
train = dict(epochs=90, channels_last="auto", save_best="top1", log_every=100)
