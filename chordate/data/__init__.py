"""Datasets, transforms and loaders: from annotation files to padded batches of tensors.

Importing the package registers its datasets in the registry DATASETS. `Dataset` is their base class, and documents what
a dataset must implement.
"""

from chordate.data.ade20k import ADE20K
from chordate.data.cifar import CIFAR10, CIFAR100
from chordate.data.cityscapes import CityscapesPanoptic, CityscapesSemantic
from chordate.data.coco import CocoDataset
from chordate.data.coco_panoptic import CocoPanoptic
from chordate.data.coco_pose import CocoPoseDataset
from chordate.data.coco_stuff import CocoStuff
from chordate.data.concat_dataset import ConcatDataset
from chordate.data.dataset import Dataset
from chordate.data.image_folder import ImageFolder, ImageNet
from chordate.data.semantic_dataset import SemanticDataset
from chordate.data.semantic_folder import SemanticFolder
from chordate.data.train_val_folder import TrainValFolder
from chordate.data.voc import VocDataset
from chordate.data.voc_semantic import VocSemantic
from chordate.data.yolo import YoloDataset

__all__ = [
    "ADE20K",
    "CIFAR10",
    "CIFAR100",
    "CityscapesPanoptic",
    "CityscapesSemantic",
    "CocoDataset",
    "CocoPanoptic",
    "CocoPoseDataset",
    "CocoStuff",
    "ConcatDataset",
    "Dataset",
    "ImageFolder",
    "ImageNet",
    "SemanticDataset",
    "SemanticFolder",
    "TrainValFolder",
    "VocDataset",
    "VocSemantic",
    "YoloDataset",
]
