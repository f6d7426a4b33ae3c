"""Crops of 384×288 px instead of 256×192, with wider Gaussians. In `_base_`, list this file after a pose config."""

train_data = dict(
    pipeline=[
        dict(type="TopDownCrop", size=(384, 288), rotation=40, scale=0.3),
        dict(type="RandomHorizontalFlip", p=0.5),
    ],
)
val_data = dict(pipeline=[dict(type="TopDownCrop", size=(384, 288))])
model = dict(head=dict(sigma=3.0))  # standard deviation in heatmap cells, from the authors' code for this size
