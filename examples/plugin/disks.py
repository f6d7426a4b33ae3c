"""Trains a segmenter on generated disks; this takes seconds on a CPU."""

model = dict(type="SemanticSegmenter", backbone="patchnet_tiny", head="SumHead")
train_data = dict(dataset=dict(type="Disks", count=256), batch_size=16, workers=0)
val_data = dict(dataset=dict(type="Disks", count=32, first=256), batch_size=16, workers=0)
optimizer = dict(type="AdamW", lr=3e-3)
train = dict(epochs=4, save_best="mIoU")
