"""`chordate convert-config` on configs with several datasets, and on the settings of their datasets and hooks."""

import pytest
import torch
from annotation_folders import voc, voc_xml, write
from converted_configs import Result
from converted_configs import write as write_config
from mmengine.optim import MultiStepLR
from test_convert_config_mistakes import MASK
from test_convert_mm_config import FASTER, RETINANET, converted

from chordate.data.loader import build_dataset

VOC = """
def_set = dict(type='VOCDataset', data_root='data/VOCdevkit/', data_prefix=dict(sub_data_root='VOC2007/'),
               filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=32),
               pipeline=[dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=0.5)])
train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=3, dataset=dict(
    type='ConcatDataset', ignore_keys=['dataset_type'], datasets=[
        dict(def_set, ann_file='VOC2007/ImageSets/Main/trainval.txt'),
        dict(def_set, ann_file='VOC2012/ImageSets/Main/trainval.txt', data_prefix=dict(sub_data_root='VOC2012/'))])))
val_dataloader = dict(dataset=dict(_delete_=True, type='VOCDataset', ann_file='VOC2007/ImageSets/Main/test.txt',
                                   data_prefix=dict(sub_data_root='VOC2007/'), data_root='data/VOCdevkit/',
                                   pipeline=[]))
val_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP', eval_mode='11points')
model = dict(bbox_head=dict(num_classes=20))
"""
NAMES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip


def voc_years(root):
    """Write VOC 2007 and 2012 with an image each of every class, whose objects are 20 px large, and one of 32 px."""
    for year in (2007, 2012):
        for split in ("trainval", "test"):
            stems = [f"{year}_{split}_{name}" for name in NAMES]
            files = {f"{stem}.xml": voc_xml(name=name) for stem, name in zip(stems, NAMES)}
            large = voc_xml(name="dog", corners=(1, 1, 33, 33))  # 32 px wide in MMDetection, 33 here
            medium = voc_xml(name="dog", corners=(1, 1, 32, 32))
            files |= {f"{year}_{split}_large.xml": large, f"{year}_{split}_medium.xml": medium}
            stems += [f"{year}_{split}_large", f"{year}_{split}_medium"]
            voc(root / f"VOC{year}", files, [f"{stem}.png" for stem in stems])
            write(root / f"VOC{year}/ImageSets/Main/{split}.txt", "\n".join(stems))


def test_mmdetections_voc_2007_and_2012_are_one_training_set(tmp_path):
    result = converted(tmp_path, RETINANET, VOC)
    assert result.lost == {"val_evaluator.type": "evaluation"}
    data = result.config.train_data
    assert data.dataset == {
        "type": "ConcatDataset",
        "datasets": [
            {"type": "VocDataset", "folder": f"VOC{year}", "split": "trainval", "filter_empty": True}
            for year in (2007, 2012)
        ],
    }
    assert result.config.train.epochs == 36
    voc_years(tmp_path)
    dataset = build_dataset(data, data_root=tmp_path, training=True)
    assert (dataset.classes, len(dataset)) == (tuple(NAMES), 44)
    # MMDetection ignores boxes below bbox_min_size in training, so the other images are background.
    kept = {
        dataset[0, index]["info"].path.rpartition("_")[2] for index in range(44) if len(dataset[0, index]["labels"])
    }
    assert kept == {"large.png"}
    val = build_dataset(result.config.val_data, data_root=tmp_path, training=False, meta=dataset.meta)
    assert all(len(val[0, index]["labels"]) for index in range(len(val)))


def test_detectron2s_voc_2007_and_2012_are_one_training_set(tmp_path):
    result = Result(
        write_config(
            tmp_path,
            mine_yaml="""
                MODEL: {META_ARCHITECTURE: RetinaNet, RETINANET: {NUM_CLASSES: 20},
                        BACKBONE: {NAME: build_retinanet_resnet_fpn_backbone},
                        RESNETS: {OUT_FEATURES: [res3, res4, res5]}, FPN: {IN_FEATURES: [res3, res4, res5]}}
                DATASETS: {TRAIN: "('voc_2007_trainval', 'voc_2012_trainval')", TEST: "('voc_2007_test',)"}
            """,
        )
    )
    assert not result.lost
    parts = result.config.train_data.dataset.datasets
    assert [(part.folder, part.ignore_difficult) for part in parts] == [("VOC2007", False), ("VOC2012", False)]
    assert result.config.val_data.dataset.get("ignore_difficult", True)  # its evaluation ignores them
    voc_years(tmp_path)
    dataset = build_dataset(result.config.train_data, data_root=tmp_path, training=True)
    assert (dataset.classes, len(dataset)) == (tuple(NAMES), 44)
    assert result.config.fallback_meta.classes == NAMES


def test_of_several_evaluation_datasets_the_first_is_read(tmp_path):
    text = "DATASETS: {TRAIN: \"('coco_2014_train', 'coco_2014_val')\", TEST: \"('coco_2017_val', 'coco_2014_val')\"}"
    result = Result(write_config(tmp_path, mine_yaml=text))
    assert result.lost == {"DATASETS.TEST": "evaluation"}
    datasets = result.config.train_data.dataset.datasets
    assert [part.annotations for part in datasets] == [f"annotations/instances_{s}2014.json" for s in ("train", "val")]
    assert result.config.val_data.dataset.images == "val2017"


def test_datasets_with_different_data_roots_have_paths_relative_to_a_common_one(tmp_path):
    result = converted(
        tmp_path,
        RETINANET,
        """
mine = dict(type='CocoDataset', data_root='data/mine', ann_file='train.json', data_prefix=dict(img='images/'),
            metainfo=dict(classes=('cat', 'dog')), pipeline=[])
train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[
    mine, dict(mine, data_root='data/coco/', ann_file='annotations/pets.json', filter_cfg=dict(min_size=32),
               pipeline=[dict(type='RandomFlip', prob=0.5)])]))
val_dataloader = dict(dataset=dict(mine, ann_file='val.json', _delete_=True))
model = dict(bbox_head=dict(num_classes=2))
""",
    )
    first, second = result.config.train_data.dataset.datasets
    assert (first.annotations, first.images) == ("mine/train.json", "mine/images")
    assert (second.annotations, second.images) == ("coco/annotations/pets.json", "coco/images")
    assert result.config.val_data.dataset.annotations == "mine/val.json"
    assert "The data root is data (--data-root)." in result.conversion.notes
    where = "train_dataloader.dataset.datasets[1]"
    assert result.lost == {f"{where}.pipeline": "training", f"{where}.filter_cfg.min_size": "data"}


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ("custom_hooks = [dict(type='SyncNormHook'), dict(type='NumClassCheckHook')]",
         {"custom_hooks[0].type": "training"}),
        ("default_hooks = dict(stop=dict(type='EarlyStoppingHook', monitor='bbox_mAP'), timer=None)",
         {"default_hooks.stop.type": "training"}),
        ("train_dataloader = dict(sampler=dict(type='ClassAwareSampler', num_sample_class=1))",
         {"train_dataloader.sampler.type": "training"}),
        ("train_dataloader = dict(sampler=dict(shuffle=False))", {"train_dataloader.sampler.shuffle": "training"}),
        ("optim_wrapper = dict(paramwise_cfg=dict(bias_lr_mult=2.0))",
         {"optim_wrapper.paramwise_cfg.bias_lr_mult": "training"}),
        ("val_evaluator = dict(type='LVISMetric')", {"val_evaluator.type": "evaluation"}),
        ("train_dataloader = dict(dataset=dict(indices=100))", {"train_dataloader.dataset.indices": "training"}),
        ("val_dataloader = dict(dataset=dict(indices=100))", {"val_dataloader.dataset.indices": "evaluation"}),
        ("model = dict(init_cfg=dict(type='Pretrained', checkpoint='a.pth'))", {}),
        ("model = dict(train_cfg=dict(assigner=dict(iou_calculator=dict(type='BboxDistance'))))",
         {"model.train_cfg.assigner.iou_calculator": "training"}),
        ("model = dict(bbox_head=dict(norm_cfg=dict(type='GN', requires_grad=False)))",
         {"model.bbox_head.norm_cfg.requires_grad": "training"}),
        ("optim_wrapper = dict(type='DeepSpeedOptimWrapper')", {"optim_wrapper.type": "training"}),
    ],
)  # fmt: skip
def test_settings_outside_of_the_model_are_carried_over_or_reported(tmp_path, changes, lost):
    result = converted(tmp_path, RETINANET, changes + "\n")
    assert result.lost == lost


COSINE = "param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, {})]\n"
WARM = "param_scheduler = [dict(type='LinearLR', by_epoch=True, end=2), dict(type='PolyLR', by_epoch=True, {})]\n"


@pytest.mark.parametrize(
    ("schedule", "lost"),
    [
        (COSINE.format("end=12, T_max=12"), {}),
        (COSINE.format("T_max=6"), {"param_scheduler[0].T_max": "training"}),
        (COSINE.format("begin=6, end=12"), {"param_scheduler[0].begin": "training"}),
        (
            COSINE.replace("by_epoch=True", "by_epoch=False").format("T_max=50000"),
            {"param_scheduler[0].T_max": "training"},
        ),
        (WARM.format("begin=2, end=12"), {}),
        (WARM.format("begin=0, end=12"), {"param_scheduler": "training"}),
        (
            WARM.format("begin=3, end=10"),
            {"param_scheduler[1].begin": "training", "param_scheduler[1].end": "training"},
        ),
    ],
)
def test_decays_that_do_not_last_for_the_whole_training_are_reported(tmp_path, schedule, lost):
    assert converted(tmp_path, RETINANET, schedule).lost == lost


@pytest.mark.parametrize("end", [12, 7])
def test_milestones_count_from_the_beginning_of_their_schedule_to_its_end(tmp_path, end):
    """As in MMEngine, whose MultiStepLR compares the milestones with the steps since `begin`."""
    settings = {"milestones": [3, 5], "gamma": 0.1, "by_epoch": True, "begin": 2, "end": end}
    text = f"param_scheduler = [dict(type='MultiStepLR', **{settings})]\n"
    ours = converted(tmp_path, RETINANET, text).config.schedule.milestones
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = MultiStepLR(optimizer, **settings), []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [n for n in range(1, 12) if rates[n] < rates[n - 1]] == ours


def test_a_setting_that_is_read_several_times_is_reported_once(tmp_path):
    changes = """
train_dataloader = dict(dataset=dict(_delete_=True, type='MultiImageMixDataset', pipeline=[],
                                     dataset=_base_.train_dataloader.dataset))
"""
    rows = converted(tmp_path, RETINANET, changes).conversion.not_carried
    assert [row.key for row in rows] == ["train_dataloader.dataset.type"]


def test_a_panoptic_dataset_has_the_class_names_of_its_annotation_file(tmp_path):
    changes = (
        MASK + "train_dataloader = dict(dataset=dict(type='CocoPanopticDataset', metainfo=dict(classes=['cat'])))\n"
    )
    result = converted(tmp_path, FASTER, changes)
    assert "classes" not in result.config.train_data.dataset
    assert result.lost["train_dataloader.dataset.metainfo"] == "data"


def test_folders_of_vocs_format_are_those_of_its_settings(tmp_path):
    changes = """
mine = dict(type='VOCDataset', data_prefix=dict(sub_data_root='cells/'), img_subdir='photos', ann_subdir='xml',
            metainfo=dict(classes=('cat', 'dog')), pipeline=[])
train_dataloader = dict(dataset=dict(mine, ann_file='cells/ImageSets/Main/train.txt', _delete_=True))
val_dataloader = dict(dataset=dict(mine, ann_file='lists/val.txt', _delete_=True))
model = dict(bbox_head=dict(num_classes=2))
"""
    config = converted(tmp_path, RETINANET, changes).config
    folders = {"type": "VocDataset", "folder": "cells", "images": "photos", "annotations": "xml"}
    assert config.train_data.dataset == {**folders, "split": "train", "classes": ["cat", "dog"]}
    assert config.val_data.dataset == {**folders, "split": "../lists/val.txt", "classes": ["cat", "dog"]}


def test_a_whole_models_checkpoint_in_init_cfg_is_loaded(tmp_path):
    changes = "model = dict(init_cfg=dict(type='Pretrained', checkpoint='a.pth'))\n"
    assert converted(tmp_path, RETINANET, changes).config.train.load_from == "a.pth"


def test_the_average_of_the_weights_is_carried_over(tmp_path):
    result = converted(tmp_path, RETINANET, "custom_hooks = [dict(type='EMAHook', momentum=0.001, priority=49)]\n")
    assert result.config.train.ema == pytest.approx(0.999)
    assert result.lost == {"custom_hooks[0].type": "training"}  # its warm-up differs


def test_the_smallest_box_of_filter_annotations_is_carried_over(tmp_path):
    changes = """
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='Resize', scale=(100, 100), keep_ratio=True), dict(type='FilterAnnotations', min_gt_bbox_wh=(4.0, 4.0))]))
"""
    steps = converted(tmp_path, RETINANET, changes).config.train_data.pipeline
    assert steps[1] == {"type": "SanitizeInstances", "min_size": 4.0}


def test_an_objectness_of_two_classes_and_another_stage_for_regions_are_reported(tmp_path):
    changes = """
model = dict(neck=None, backbone=dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,)),
             rpn_head=dict(in_channels=1024, feat_channels=1024, loss_cls=dict(use_sigmoid=False),
                           anchor_generator=dict(strides=[16])),
             roi_head=dict(shared_head=dict(type='ResLayer', depth=101, stage=3, stride=2, dilation=1,
                                            norm_cfg=dict(type='BN', requires_grad=False)),
                           bbox_roi_extractor=dict(featmap_strides=[16]), bbox_head=dict(type='BBoxHead')))
"""
    lost = converted(tmp_path, FASTER, changes).lost
    assert lost["model.rpn_head.loss_cls.use_sigmoid"] == lost["model.roi_head.shared_head.depth"] == "predictions"
    assert "model.roi_head.shared_head.norm_cfg" not in lost


def test_a_pyramid_that_starts_above_c2_reads_the_maps_of_the_backbone(tmp_path):
    changes = """
model = dict(backbone=dict(out_indices=(1, 2, 3)),
             neck=dict(in_channels=[512, 1024, 2048], start_level=0, num_outs=5))
"""
    model = converted(tmp_path, RETINANET, changes).build()
    assert model.neck.inputs == ("c3", "c4", "c5")
    with torch.device("meta"):
        assert set(model.neck.out_features) == {"p3", "p4", "p5", "p6", "p7"}
