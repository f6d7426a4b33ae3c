"""`chordate convert-config` on MMSegmentation's datasets."""

import posixpath

import pytest
from test_convert_mm_config import SEGMENTER, converted

from chordate.errors import ConfigError
from chordate.registry import DATASETS
from chordate.signatures import parameters_of


def test_reduce_zero_label_and_suffixes_of_a_folder_of_label_maps_are_carried_over(tmp_path):
    changes = """
mine = dict(type='MineDataset', data_prefix=dict(img_path='images', seg_map_path='labels'), img_suffix='.tif',
            seg_map_suffix='_labels.png', reduce_zero_label=True, metainfo=dict(classes=('road', 'tree')),
            pipeline=[dict(type='LoadAnnotations', reduce_zero_label=True)])
train_dataloader = dict(dataset=dict(mine, _delete_=True))
val_dataloader = dict(dataset=dict(mine, _delete_=True))
model = dict(decode_head=dict(num_classes=2), auxiliary_head=dict(num_classes=2))
"""
    dataset = converted(tmp_path, SEGMENTER, changes).config.val_data.dataset
    assert dataset == {
        "type": "SemanticFolder", "images": "images", "labels": "labels", "image_suffix": ".tif",
        "label_suffix": "_labels.png", "classes": ["road", "tree"], "ids": [1, 2], "ignored_ids": [0, 255],
    }  # fmt: skip


SEMANTIC_SET = """
mine = dict(type={kind!r}, data_root={root!r}, ann_file={lists[0]!r}, pipeline=[],
            data_prefix=dict(img_path={images!r}, seg_map_path={labels!r}))
train_dataloader = dict(dataset=dict(mine, _delete_=True))
val_dataloader = dict(dataset=dict(mine, ann_file={lists[1]!r}, data_root={val_root!r}, _delete_=True))
"""
LISTS = [f"ImageSets/Segmentation/{split}.txt" for split in ("train", "val")]


@pytest.mark.parametrize(
    ("kind", "images", "labels", "lists", "wanted"),
    [
        ("ADE20KDataset", "images/training", "annotations/training", ["", ""], {"folder": "{}"}),
        ("CityscapesDataset", "leftImg8bit/train/", "gtFine/train/", ["", ""], {"folder": "{}"}),
        ("PascalVOCDataset", "JPEGImages", "SegmentationClass", LISTS, {"folder": "{}"}),
        ("COCOStuffDataset", "images/train2017", "annotations/train2017", ["", ""],
         {"images": "{}/images", "labels": "{}/annotations"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("val_root", ["data/one/set", "data/two/set"])
def test_semantic_datasets_with_a_fixed_layout_are_read_from_their_data_root(
    tmp_path, kind, images, labels, lists, wanted, val_root
):
    root = "data/one/set"
    changes = SEMANTIC_SET.format(kind=kind, root=root, images=images, labels=labels, lists=lists, val_root=val_root)
    result = converted(tmp_path, SEGMENTER, changes)
    (note,) = (note for note in result.conversion.notes if note.startswith("The data root is "))
    common = note.split()[4]
    for data, own in ((result.config.train_data, root), (result.config.val_data, val_root)):
        arguments = {**parameters_of(DATASETS.get(data.dataset.type)).defaults, **data.dataset}
        for key, path in wanted.items():
            assert posixpath.normpath(posixpath.join(common, arguments[key])) == path.format(own)


def test_another_layout_of_a_dataset_with_a_fixed_layout_is_reported(tmp_path):
    changes = "train_dataloader = dict(dataset=dict(data_prefix=dict(img_path='left/train')))\n"
    lost = converted(tmp_path, SEGMENTER, changes).lost
    assert lost["train_dataloader.dataset.data_prefix.img_path"] == "data"


def test_class_names_of_a_dataset_that_has_its_own_are_reported(tmp_path):
    head = "dict(num_classes=2)"
    result = converted(
        tmp_path,
        SEGMENTER,
        f"""
train_dataloader = dict(dataset=dict(metainfo=dict(classes=('road', 'car'))))
model = dict(decode_head={head}, auxiliary_head={head})
""",
    )
    assert "classes" not in result.config.train_data.dataset
    assert result.lost["train_dataloader.dataset.metainfo"] == "predictions"


CONCATENATED = """
mine = dict(type='PascalVOCDataset', data_root='data/VOC2012', pipeline=[],
            data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'))
both = dict(type='ConcatDataset', _delete_=True, datasets=[
    dict(mine, ann_file='ImageSets/Segmentation/{}.txt'), dict(mine, ann_file='ImageSets/Segmentation/{}.txt')])
{}_dataloader = dict(dataset=both)
"""


def test_only_the_training_images_of_voc_and_sbd_are_one_dataset(tmp_path):
    train = converted(tmp_path, SEGMENTER, CONCATENATED.format("train", "aug", "train")).config.train_data.dataset
    assert (train.type, train.split) == ("VocSemantic", "train_aug")
    train = converted(tmp_path, SEGMENTER, CONCATENATED.format("train", "val", "train")).config.train_data.dataset
    assert [part.split for part in train.datasets] == ["train", "val"]
    elsewhere = CONCATENATED.format("train", "aug", "train").replace("aug.txt'", "aug.txt', data_root='data/VOCaug'")
    with pytest.raises(ConfigError, match='train_data.dataset.datasets.1.split must be .*, got "aug"'):
        converted(tmp_path, SEGMENTER, elsewhere)
    result = converted(tmp_path, SEGMENTER, CONCATENATED.format("val", "train", "val"))
    assert result.config.val_data.dataset.split == "val"
    assert result.lost["val_dataloader.dataset.type"] == "evaluation"
