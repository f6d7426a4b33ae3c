"""DenseNet on CIFAR (Huang et al. 2017, section 4.2): Nesterov momentum, 300 epochs, batch size 64, learning rate
0.1, divided by 10 after one half and three quarters of the epochs.
"""

optimizer = dict(type="SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, base_batch_size=64)
schedule = dict(type="step", milestones=[150, 225], gamma=0.1)
train = dict(epochs=300, channels_last="auto", eval_every=5, save_best="top1", log_every=100)
