"""ResNet-RS (Bello et al. 2021, section 4.2): 350 epochs, batch 4096, rate 0.1 per 256 images, 5 epochs of
warm-up, then a half-period cosine to 0; weight decay 4e-5, EMA of the weights.

The numbers are the authors' (tensorflow/models, official/vision, imagenet_resnetrs*.yaml). 8 processes of 128 images
make batches of 1024; set train.accumulate=4 for their 4096.
"""

optimizer = dict(type="SGD", lr=1.6, momentum=0.9, weight_decay=4e-5, no_decay=["norm", "bias"], base_batch_size=4096)
schedule = dict(type="cosine", warmup_epochs=5, warmup_factor=0.0)
train = dict(epochs=350, ema=0.9999, channels_last="auto", save_best="top1", log_every=100)
