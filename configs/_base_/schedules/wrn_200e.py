"""WRN on CIFAR (Zagoruyko & Komodakis 2016, section 3): Nesterov momentum, weight decay 5e-4, 200 epochs, batch
size 128, learning rate 0.1, multiplied by 0.2 after epochs 60, 120 and 160.
"""

optimizer = dict(type="SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, base_batch_size=128)
schedule = dict(type="step", milestones=[60, 120, 160], gamma=0.2)
train = dict(epochs=200, channels_last="auto", eval_every=5, save_best="top1", log_every=100)
