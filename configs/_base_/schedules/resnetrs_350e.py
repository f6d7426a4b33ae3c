"""ResNet-RS (Bello et al. 2021, section 4.2): 350 epochs, batch size 4096, learning rate 0.1 per 256
images, 5 epochs of warm-up, then a half-period cosine to 0; weight decay 4e-5, EMA of the weights.

The settings are from the authors' configs (tensorflow/models, official/vision, imagenet_resnetrs*.yaml). With 128
images on each of 8 processes the batch size is 1024; set train.accumulate=4 for the authors' 4096.
"""

optimizer = dict(type="SGD", lr=1.6, momentum=0.9, weight_decay=4e-5, no_decay=["norm", "bias"], base_batch_size=4096)
schedule = dict(type="cosine", warmup_epochs=5, warmup_factor=0.0)
train = dict(epochs=350, ema=0.9999, channels_last="auto", save_best="top1", log_every=100)
