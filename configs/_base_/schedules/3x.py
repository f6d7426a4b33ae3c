"""MMDetection's "3x" (its `ms_3x_coco.py`): 36 epochs of COCO, batch size 16, learning rate 0.02, divided by 10 after
epochs 27 and 33, with 500 iterations of warm-up.

MMDetection writes this as 12 epochs of data repeated three times, with drops after epochs 9 and 11. Detectron2's 3x is
270,000 iterations (about 36.8 epochs), with learning-rate drops at 210,000 and 250,000.
"""

schedule = dict(milestones=[27, 33])
train = dict(epochs=36)
