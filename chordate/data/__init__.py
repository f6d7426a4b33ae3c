"""Datasets, transforms and loaders: from annotation files to padded batches of tensors.

Importing the package registers every dataset in DATASETS. `Dataset` is their base class, and documents what a dataset
must implement.
"""

from chordate.data.cifar import CIFAR10, CIFAR100
from chordate.data.coco import CocoDataset
from chordate.data.coco_panoptic import CocoPanoptic
from chordate.data.dataset import Dataset
from chordate.data.image_folder import ImageFolder, ImageNet
from chordate.data.semantic_folder import SemanticFolder
from chordate.data.train_val_folder import TrainValFolder
from chordate.data.voc import VocDataset
from chordate.data.yolo import YoloDataset

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "CocoDataset",
    "CocoPanoptic",
    "Dataset",
    "ImageFolder",
    "ImageNet",
    "SemanticFolder",
    "TrainValFolder",
    "VocDataset",
    "YoloDataset",
]
