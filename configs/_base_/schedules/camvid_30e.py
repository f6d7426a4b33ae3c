"""This project's own recipe for CamVid: 30 epochs with batch size 8, AdamW, and the "poly" learning-rate schedule."""

optimizer = dict(type="AdamW", lr=1e-3, weight_decay=0.01, base_batch_size=8)
schedule = dict(type="poly", power=0.9, warmup_iters=50)
train = dict(epochs=30, save_best="mIoU", channels_last="auto", log_every=10)
