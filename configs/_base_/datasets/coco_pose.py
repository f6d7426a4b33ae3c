"""COCO 2017 people in crops of 256×192 px (Xiao et al. 2018, section 4.1): boxes are extended to 4:3 and enlarged by
25 %; augmentation is rotation by up to ±40°, scale by up to ±30 %, and flips.

Angle and scale are drawn uniformly for each crop. The authors' code rotates only 60 % of the crops, by normally
distributed angles (standard deviation 40°, clipped to ±80°). Half-body augmentation, which HRNet's code added later, is
not used.

The data root contains annotations/person_keypoints_{train,val}2017.json, train2017/ and val2017/. Evaluation uses the
boxes of the annotations; to compare with published numbers, set val_data.dataset.boxes to a detector's results file.
"""

fallback_meta = dict(classes=["person"], skeleton="coco")
train_data = dict(
    dataset=dict(type="CocoPoseDataset", annotations="annotations/person_keypoints_train2017.json", images="train2017"),
    pipeline=[
        dict(type="TopDownCrop", size=(256, 192), rotation=40, scale=0.3),
        dict(type="RandomHorizontalFlip", p=0.5),
    ],
    batch_size=32,  # crops per process; 128 in total on 4 processes
    workers=4,
)
val_data = dict(
    dataset=dict(type="CocoPoseDataset", annotations="annotations/person_keypoints_val2017.json", images="val2017"),
    pipeline=[dict(type="TopDownCrop", size=(256, 192))],
    batch_size=32,
    workers=4,
)
metric = dict(type="PoseMetric")
