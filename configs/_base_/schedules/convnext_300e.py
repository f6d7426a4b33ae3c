"""ConvNeXt (Liu et al. 2022, appendix A.1, table 5): AdamW, 300 epochs, batch size 4096, learning rate 4e-3,
weight decay 0.05, 20 epochs of warm-up, then a half-period cosine; EMA of the weights.

With 128 images on each of 8 processes the batch size is 1024; set train.accumulate=4 for the paper's 4096.
"""

optimizer = dict(
    type="AdamW",
    lr=4e-3,
    betas=(0.9, 0.999),
    weight_decay=0.05,
    no_decay=["norm", "bias", "*.gamma"],
    base_batch_size=4096,
)
# The authors' final learning rate is 1e-6, that is, 2.5e-4 × 4e-3.
schedule = dict(type="cosine", min_factor=2.5e-4, warmup_epochs=20, warmup_factor=0.0)
train = dict(epochs=300, ema=0.9999, channels_last="auto", save_best="top1", log_every=100)
