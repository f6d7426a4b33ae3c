"""Adam for 140 epochs with batch size 128 on four GPUs; the learning rate of 1e-3 is divided by 10 after epochs 90 and
120 (Xiao et al. 2018, section 4.1).
"""

optimizer = dict(type="Adam", lr=1e-3, base_batch_size=128)
schedule = dict(type="step", milestones=[90, 120], gamma=0.1)
train = dict(epochs=140, channels_last="auto", save_best="keypoints_AP")
