"""Results that papers and model zoos published for the packaged models, and the training recipe of each backbone.

Each result is copied from its source, which describes training and testing; this project has not reproduced it unless
`docs/results.md` says so. Errors are top-1 errors: on ImageNet's validation images with one center crop, unless the
source says otherwise; on CIFAR's test images without cropping.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Published(NamedTuple):
    """One published model.

    Attributes:
        figure: the published result, such as `37.9 box AP`; empty if the source has no number.
        source: paper and table, or model zoo.
        recipe: name of the packaged config with this model's training settings. By default, it is the config with the
            model's name, or else a config of its backbone's family (see `config_templates.Templates`).
        backbone: backbone settings of this model, which override those of the recipe.
    """

    figure: str
    source: str
    recipe: str | None = None
    backbone: Mapping[str, Any] = MappingProxyType({})


def _errors(rows: Mapping[str, str], source: str, recipe: str | None = None, **backbone: Any) -> dict[str, Published]:
    """Entries for the models of one table; `rows` maps names to errors in percent (or empty strings), as printed."""
    return {
        name: Published(f"{error} % error" if error else "", source, recipe, backbone) for name, error in rows.items()
    }


# He et al. 2016 is Deep Residual Learning; the pre-activation networks are from their paper Identity Mappings.
RESNET, IDENTITY = "He et al. 2016", "He et al. 2016, Identity Mappings"
WIDE, DENSE = "Zagoruyko & Komodakis 2016", "Huang et al. 2017"
RS, CONVNEXT = "Bello et al. 2021, authors' repository", "Liu et al. 2022, table 1"
CONVNEXT_FINE = "recipe of Liu et al. 2022, table 6"
DETECTRON2, TORCHVISION = "Detectron2's model zoo", "torchvision's weights"
MMSEGMENTATION = "MMSegmentation's model zoo"
COPY_PASTE = "Ghiasi et al. 2021, authors' repository"

IMAGENET = {
    **_errors({"plain18_imagenet": "27.94", "plain34_imagenet": "28.54"}, f"{RESNET}, table 2, 10 crops"),
    **_errors({"resnet18_imagenet": "27.88"}, f"{RESNET}, table 2, 10 crops, shortcuts A"),
    **_errors(
        {
            "resnet34_imagenet": "24.52",
            "resnet50_imagenet": "22.85",
            "resnet101_imagenet": "21.75",
            "resnet152_imagenet": "21.43",
        },
        f"{RESNET}, table 3, 10 crops",
    ),
    **_errors({"preact_resnet50_imagenet": "", "preact_resnet101_imagenet": ""}, f"recipe of {IDENTITY}, table 5"),
    **_errors(
        {"preact_resnet152_imagenet": "21.1", "preact_resnet200_imagenet": "20.7"}, f"{IDENTITY}, table 5, 320 px"
    ),
    **_errors({"wide_resnet50_2_imagenet": "21.9"}, f"{WIDE}, table 8"),
    **_errors({"resnext50_32x4d_imagenet": "22.2", "resnext101_32x4d_imagenet": "21.2"}, "Xie et al. 2017, table 3"),
    **_errors({"resnext101_64x4d_imagenet": "20.4"}, "Xie et al. 2017, table 5"),
    **_errors(
        {"seresnet50_imagenet": "23.29", "seresnet101_imagenet": "22.38", "seresnet152_imagenet": "21.57"},
        "Hu et al. 2018, table 2",
    ),
    **_errors(
        {"seresnext50_32x4d_imagenet": "21.10", "seresnext101_32x4d_imagenet": "20.70"},
        "Hu et al. 2018, table 2",
        "seresnet50_imagenet",
    ),
    **_errors(
        {"densenet121_imagenet": "25.02", "densenet169_imagenet": "23.80", "densenet201_imagenet": "22.58"},
        f"{DENSE}, table 3",
        "wide_resnet50_2_imagenet",
    ),
    **_errors({"densenet161_imagenet": "22.2"}, f"{DENSE}, authors' repository", "wide_resnet50_2_imagenet"),
    **_errors(
        {
            "resnetrs50_i160_imagenet": "21.2",
            "resnetrs101_i160_imagenet": "19.7",
            "resnetrs101_i192_imagenet": "18.8",
            "resnetrs152_i192_imagenet": "18.0",
            "resnetrs152_i224_imagenet": "17.8",
            "resnetrs200_i256_imagenet": "16.6",
            "resnetrs270_i256_imagenet": "16.2",
            "resnetrs350_i256_imagenet": "16.0",
            "resnetrs350_i320_imagenet": "15.8",
            "resnetrs420_i320_imagenet": "15.6",
        },
        RS,
    ),
    **_errors({"resnetrs152_i256_imagenet": "17.0"}, RS, drop_path=0.0),
    **_errors({"convnext_tiny_imagenet": "17.9"}, CONVNEXT),
    **_errors({"convnext_small_imagenet": "16.9"}, CONVNEXT, drop_path=0.4),
    **_errors({"convnext_base_imagenet": "16.2", "convnext_large_imagenet": "15.7"}, CONVNEXT, drop_path=0.5),
    # Table 6 has tiny and small only with ImageNet-22k pretraining. For fine-tuning from ImageNet-1k, drop_path is that
    # of table 5.
    **_errors({"convnext_tiny_i384_imagenet": ""}, CONVNEXT_FINE, drop_path=0.1),
    **_errors({"convnext_small_i384_imagenet": ""}, CONVNEXT_FINE, drop_path=0.4),
    **_errors({"convnext_base_i384_imagenet": "14.9"}, CONVNEXT),
    **_errors({"convnext_large_i384_imagenet": "14.5"}, CONVNEXT, drop_path=0.95),
}

CIFAR = {
    **_errors(
        {"plain20_cifar10": "", "plain32_cifar10": "", "plain44_cifar10": "", "plain56_cifar10": ""},
        f"{RESNET}, figure 6",
        "resnet20_cifar10",
    ),
    **_errors(
        {
            "resnet20_cifar10": "8.75",
            "resnet32_cifar10": "7.51",
            "resnet44_cifar10": "7.17",
            "resnet56_cifar10": "6.97",
        },
        f"{RESNET}, table 6",
        "resnet20_cifar10",
    ),
    **_errors({"resnet110_cifar10": "6.43", "resnet1202_cifar10": "7.93"}, f"{RESNET}, table 6", "resnet110_cifar10"),
    # Srivastava et al. 2015 only have wider networks: 7.72 % error with 19 layers, 8.80 % with 32 (He et al., table 6).
    **_errors({"highway20_cifar10": "", "highway32_cifar10": ""}, f"size and recipe of {RESNET}", "resnet20_cifar10"),
    **_errors(
        {"preact_resnet110_cifar10": "6.37", "preact_resnet164_cifar10": "5.46", "preact_resnet1001_cifar10": "4.92"},
        f"{IDENTITY}, table 3",
        "resnet110_cifar10",
    ),
    **_errors(
        {"preact_resnet164_cifar100": "24.33", "preact_resnet1001_cifar100": "22.71"},
        f"{IDENTITY}, table 4",
        "resnet110_cifar10",
    ),
    **_errors({"wrn16_4_cifar10": "5.02", "wrn16_4_cifar100": "24.03"}, f"{WIDE}, table 6"),
    **_errors(
        {
            "wrn16_8_cifar10": "4.27",
            "wrn16_8_cifar100": "20.43",
            "wrn28_10_cifar10": "4.00",
            "wrn28_10_cifar100": "19.25",
            "wrn40_4_cifar10": "4.53",
            "wrn40_4_cifar100": "21.18",
        },
        f"{WIDE}, table 5",
    ),
    **_errors({"wrn28_10_dropout_cifar10": "3.89", "wrn28_10_dropout_cifar100": "18.85"}, f"{WIDE}, table 6"),
    **_errors({"densenet100_12_cifar10": "4.51", "densenet100_12_cifar100": "22.27"}, f"{DENSE}, table 2"),
}

# The results are with a flip test, and with the boxes of a detector that has 56.4 AP on people.
XIAO = "Xiao et al. 2018, table 2"
POSE = {
    "pose_r50_256x192_coco": Published("70.4 keypoint AP", XIAO),
    "pose_r101_256x192_coco": Published("71.4 keypoint AP", XIAO),
    "pose_r152_256x192_coco": Published("72.0 keypoint AP", XIAO),
    "pose_r50_384x288_coco": Published("72.2 keypoint AP", XIAO),
    "pose_r101_384x288_coco": Published("73.6 keypoint AP", "authors of Xiao et al. 2018, repository"),
    "pose_r152_384x288_coco": Published("74.3 keypoint AP", "authors of Xiao et al. 2018, repository"),
}

COCO = {
    "faster-rcnn_r50_fpn_1x_coco": Published("37.9 box AP", DETECTRON2),
    "faster-rcnn_r50_fpn_3x_coco": Published("40.2 box AP", DETECTRON2),
    "faster-rcnn_r101_fpn_3x_coco": Published("42.0 box AP", DETECTRON2),
    "faster-rcnn_x101-32x8d_fpn_3x_coco": Published("43.0 box AP", DETECTRON2),
    "faster-rcnn_r50_c4_1x_coco": Published("35.7 box AP", DETECTRON2),
    "faster-rcnn_r50_dc5_1x_coco": Published("37.3 box AP", DETECTRON2),
    "mask-rcnn_r50_fpn_1x_coco": Published("38.6 box AP, 35.2 mask AP", DETECTRON2),
    "mask-rcnn_r50_fpn_3x_coco": Published("41.0 box AP, 37.2 mask AP", DETECTRON2),
    "mask-rcnn_r101_fpn_3x_coco": Published("42.9 box AP, 38.6 mask AP", DETECTRON2),
    "mask-rcnn_x101-32x8d_fpn_3x_coco": Published("44.3 box AP, 39.5 mask AP", DETECTRON2),
    "mask-rcnn_r50_c4_1x_coco": Published("36.8 box AP, 32.2 mask AP", DETECTRON2),
    "mask-rcnn_r50_dc5_1x_coco": Published("38.3 box AP, 34.2 mask AP", DETECTRON2),
    "mask-rcnn_r50_fpn_lsj-copypaste_coco": Published("48.3 box AP, 42.4 mask AP", COPY_PASTE),
    "panoptic-fpn_r50_fpn_1x_coco": Published("39.4 PQ", DETECTRON2),
    "panoptic-fpn_r50_fpn_3x_coco": Published("41.5 PQ", DETECTRON2),
    "panoptic-deeplab_r52_cityscapes": Published(
        "60.3 PQ", "Detectron2's Panoptic-DeepLab project", backbone={"multi_grid": (1, 2, 4)}
    ),
    "cascade-mask-rcnn_r50_fpn_1x_coco": Published("42.1 box AP, 36.4 mask AP", DETECTRON2),
    "keypoint-rcnn_r50_fpn_1x_coco": Published("53.6 box AP, 64.0 keypoint AP", DETECTRON2),
    "retinanet_r50_fpn_1x_coco": Published("37.4 box AP", DETECTRON2),
    "cascade-rcnn_r50_fpn_1x_coco": Published("40.3 box AP", "MMDetection's model zoo"),
    "faster-rcnn_r50_fpn_torchvision": Published("37.0 box AP", TORCHVISION),
    "faster-rcnn_r50_fpn-v2_torchvision": Published("46.7 box AP", TORCHVISION),
    "mask-rcnn_r50_fpn_torchvision": Published("37.9 box AP, 34.6 mask AP", TORCHVISION),
    "mask-rcnn_r50_fpn-v2_torchvision": Published("47.4 box AP, 41.8 mask AP", TORCHVISION),
    "keypoint-rcnn_r50_fpn_torchvision": Published("54.6 box AP, 65.0 keypoint AP", TORCHVISION),
    "retinanet_r50_fpn_torchvision": Published("36.4 box AP", TORCHVISION),
    "retinanet_r50_fpn-v2_torchvision": Published("41.5 box AP", TORCHVISION),
}

SEMANTIC = {
    "deeplabv3plus_r50c_d8_80k_cityscapes": Published("80.09 mIoU", MMSEGMENTATION),
    "deeplabv3plus_r101c_d8_80k_cityscapes": Published("80.97 mIoU", MMSEGMENTATION),
    "deeplabv3plus_r50c_d8_40k_voc-aug": Published("76.81 mIoU", MMSEGMENTATION),
    "deeplabv3plus_r101c_d8_40k_voc-aug": Published("78.62 mIoU", MMSEGMENTATION),
    "deeplabv3plus_r50c_d8_80k_ade20k": Published("42.72 mIoU", MMSEGMENTATION),
    "deeplabv3plus_r101c_d8_80k_ade20k": Published("44.60 mIoU", MMSEGMENTATION),
    "deeplabv3_r50c_d8_80k_cityscapes": Published("79.32 mIoU", MMSEGMENTATION),
    "deeplabv3_r101c_d8_80k_cityscapes": Published("80.20 mIoU", MMSEGMENTATION),
    "deeplabv3_r50c_d8_40k_voc-aug": Published("77.68 mIoU", MMSEGMENTATION),
    "deeplabv3_r101c_d8_40k_voc-aug": Published("77.92 mIoU", MMSEGMENTATION),
    "deeplabv3_r50c_d8_80k_ade20k": Published("42.42 mIoU", MMSEGMENTATION),
    "deeplabv3_r101c_d8_80k_ade20k": Published("44.08 mIoU", MMSEGMENTATION),
    "deeplabv3_r50c_d8_80k_coco-stuff": Published("39.38 mIoU", MMSEGMENTATION),
    "deeplabv3_r101c_d8_80k_coco-stuff": Published("40.87 mIoU", MMSEGMENTATION),
    "pspnet_r50c_d8_80k_cityscapes": Published("78.55 mIoU", MMSEGMENTATION),
    "pspnet_r101c_d8_80k_cityscapes": Published("79.76 mIoU", MMSEGMENTATION),
    "pspnet_r50c_d8_80k_ade20k": Published("41.13 mIoU", MMSEGMENTATION),
    "pspnet_r101c_d8_80k_ade20k": Published("43.57 mIoU", MMSEGMENTATION),
    "semantic-fpn_r50c_fpn_80k_cityscapes": Published("74.52 mIoU", MMSEGMENTATION),
    "semantic-fpn_r101c_fpn_80k_cityscapes": Published("75.80 mIoU", MMSEGMENTATION),
    "semantic-fpn_r50c_fpn_160k_ade20k": Published("37.49 mIoU", MMSEGMENTATION),
    "semantic-fpn_r101c_fpn_160k_ade20k": Published("39.35 mIoU", MMSEGMENTATION),
    "deeplabv3_r50_d8_torchvision": Published("66.4 mIoU", TORCHVISION),
    "fcn_r50_d8_torchvision": Published("60.5 mIoU", TORCHVISION),
}

PUBLISHED: dict[str, Published] = {**IMAGENET, **CIFAR, **COCO, **SEMANTIC, **POSE}
