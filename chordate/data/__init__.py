"""Data sets, transforms, batches and loaders: from annotation files to padded batches of tensors.

A data set of one's own joins in by `@DATASETS.register_module()` on a class that takes `data_root`, `pipeline`,
`seed` and `classes` by name, and has what the loader and the metrics use of CocoDataset: `dataset[key]`,
`len`, `classes`; `sizes` where shapes differ; `class_images()` for class-balanced sampling; `category_ids` and
`coco` for CocoMetric.
"""

from chordate.data.cifar import CIFAR10, CIFAR100
from chordate.data.train_val_folder import ClassFolders
from chordate.data.coco import CocoDataset
from chordate.data.image_folder import ImageFolder, ImageNet
from chordate.data.voc import VocDataset
from chordate.data.yolo import YoloDataset

__all__ = ["CIFAR10", "CIFAR100", "ClassFolders", "CocoDataset", "ImageFolder", "ImageNet", "VocDataset", "YoloDataset"]
