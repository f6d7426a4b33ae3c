"""Types of the settings in MMDetection's and MMSegmentation's configs that the converters read, for `Keys`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from chordate.arguments import (
    Fraction,
    NonEmpty,
    NonNegativeFloat,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveInt,
    ProperFraction,
)

Counts = Annotated[Sequence[PositiveInt], NonEmpty]
Sizes = Annotated[Sequence[PositiveFloat], NonEmpty]
Pair = tuple[PositiveInt, PositiveInt]

TYPES: Mapping[str, Any] = {
    **dict.fromkeys(
        ("type", "dtype", "checkpoint", "pretrained", "load_from", "ann_file", "data_root", "img",
         "img_path", "seg_map_path", "crop_type", "constructor", "decay_type", "img_suffix", "seg_map_suffix",
         "interpolation", "seg", "sub_data_root", "img_subdir", "ann_subdir"),
        str,
    ),
    **dict.fromkeys(
        ("deep_stem", "avg_down", "with_cp", "norm_eval", "requires_grad", "contract_dilation", "bgr_to_rgb",
         "relu_before_extra_convs", "reg_decoded_bbox", "reg_class_agnostic", "class_agnostic", "aligned",
         "concat_input", "keep_ratio", "with_mask", "filter_empty_gt", "by_epoch", "nesterov", "amsgrad", "maximize",
         "centered", "gap_before_final_norm", "match_low_quality", "reduce_zero_label", "avg_non_ignore", "by_box",
         "by_mask", "use_sigmoid"),
        bool,
    ),
    **dict.fromkeys(
        ("groups", "base_width", "num_groups", "out_channels", "num_outs", "pad_size_divisor", "num", "nms_pre",
         "max_per_img", "scales_per_octave", "conv_out_channels", "fc_out_channels", "inner_channels", "output_size",
         "channels", "num_classes", "dilation", "c1_channels", "times", "max_epochs", "max_iters", "val_interval",
         "batch_size", "base_batch_size", "accumulative_counts", "num_layers", "num_stages"),
        PositiveInt,
    ),
    **dict.fromkeys(
        ("start_level", "num_convs", "stacked_convs", "num_shared_convs", "num_shared_fcs", "sampling_ratio", "begin",
         "end", "num_things_classes", "num_stuff_classes", "seed", "min_size", "bbox_min_size"),
        NonNegativeInt,
    ),
    **dict.fromkeys(("pos_fraction", "pos_iou_thr", "neg_iou_thr", "iou_threshold", "mask_overlap"), Fraction),
    **dict.fromkeys(
        ("eps", "loss_weight", "beta", "min_pos_iou", "score_thr", "stuff_area_limit", "oversample_thr", "start_factor",
         "factor", "gamma", "eta_min", "eta_min_ratio", "power", "max_norm", "momentum", "weight_decay",
         "dampening", "alpha", "lr_decay", "initial_accumulator_value", "momentum_decay", "norm_decay_mult",
         "bias_decay_mult", "lr_mult", "decay_mult", "layer_scale_init_value"),
        NonNegativeFloat,
    ),
    **dict.fromkeys(("lr", "octave_base_scale", "decay_rate", "cat_max_ratio"), PositiveFloat),
    **dict.fromkeys(("dropout_ratio", "drop_path_rate"), ProperFraction),
    **dict.fromkeys(("strides", "dilations", "multi_grid", "featmap_strides", "pool_scales"), Counts),
    **dict.fromkeys(("scales", "base_sizes", "ratios", "std"), Sizes),
    "depth": Literal[18, 34, 50, 101, 152],
    "arch": str,
    "style": Literal["pytorch", "caffe"],
    "mode": Literal["whole", "slide"],
    "frozen_stages": int,
    "interval": int,
    "allowed_border": float,
    "mean": Sequence[float],
    "target_stds": tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat],
    "stage_loss_weights": Sequence[float],
    "class_weight": Sequence[NonNegativeFloat],
    "classes": Annotated[Sequence[str], NonEmpty],
    "milestones": Sequence[NonNegativeInt],
    "betas": tuple[float, float],
    "min_gt_bbox_wh": tuple[NonNegativeFloat, NonNegativeFloat],
    "custom_hooks.momentum": OpenFraction,
    "add_extra_convs": bool | Literal["on_input", "on_lateral", "on_output"],
    "in_channels": PositiveInt | Counts,
    "neck.in_channels": Counts,
    **dict.fromkeys(("decode_head.in_channels", "auxiliary_head.in_channels"), PositiveInt),
    "out_indices": int | Annotated[Sequence[int], NonEmpty],
    "in_index": int | Annotated[Sequence[int], NonEmpty],
    "crop_size": PositiveInt | Pair,
    "stride": PositiveInt | Pair,
    # Of transforms, whose sizes are (width, height).
    "scale": Pair | tuple[Pair, Pair],
    "pipeline.scales": Annotated[Sequence[Pair], NonEmpty],
    "ratio_range": tuple[PositiveFloat, PositiveFloat],
    "prob": Fraction | Sequence[Fraction],
    "direction": str | Sequence[str],
}  # fmt: skip
