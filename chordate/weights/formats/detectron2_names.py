"""Pairs of tensor-name prefixes (Detectron2's, ours) for every part of Detectron2's networks; see `NameTable`."""

from __future__ import annotations

from chordate.weights.formats.name_table import Pairs

FPN: Pairs = (
    ("backbone.fpn_lateral#.norm.", "neck.lateral.c#.1."),
    ("backbone.fpn_lateral#.", "neck.lateral.c#.0."),
    ("backbone.fpn_output#.norm.", "neck.output.p#.1."),
    ("backbone.fpn_output#.", "neck.output.p#.0."),
    ("backbone.top_block.p#.", "neck.extra.p#."),
)
RPN: Pairs = (
    ("proposal_generator.rpn_head.objectness_logits.", "rpn.objectness_logits."),
    ("proposal_generator.rpn_head.anchor_deltas.", "rpn.anchor_deltas."),
)
RPN_CONV: Pairs = (("proposal_generator.rpn_head.conv.", "rpn.convs.0."),)
RPN_CONVS: Pairs = (("proposal_generator.rpn_head.conv.conv#.", "rpn.convs.#."),)  # several convolutions
KEYPOINT: Pairs = (
    *((f"roi_heads.keypoint_head.conv_fcn{n + 1}.", f"keypoint.convs.{n}.0.") for n in range(16)),
    ("roi_heads.keypoint_head.score_lowres.", "keypoint.heatmaps."),
)


def resnet(theirs: str, ours: str) -> Pairs:
    """Pairs of name prefixes of a ResNet whose stem is one convolution; they start with `theirs` and `ours`."""
    stem = (
        (f"{theirs}stem.conv1.norm.", f"{ours}bn1."),
        (f"{theirs}stem.conv1.", f"{ours}conv1."),
    )
    return (*stem, *(pair for number in range(1, 5) for pair in stage(theirs, ours, number)))


def deep_resnet(theirs: str, ours: str) -> Pairs:
    """Pairs of tensor-name prefixes, Detectron2's and ours, of a ResNet whose stem has three convolutions (ResNet-C, in
    Detectron2's DeepLab project)."""
    stem = (
        (f"{theirs}stem.conv1.norm.", f"{ours}conv1.1."),
        (f"{theirs}stem.conv1.", f"{ours}conv1.0."),
        (f"{theirs}stem.conv2.norm.", f"{ours}conv1.4."),
        (f"{theirs}stem.conv2.", f"{ours}conv1.3."),
        (f"{theirs}stem.conv3.norm.", f"{ours}bn1."),
        (f"{theirs}stem.conv3.", f"{ours}conv1.6."),
    )
    return (*stem, *(pair for number in range(1, 5) for pair in stage(theirs, ours, number)))


def stage(theirs: str, ours: str, number: int) -> Pairs:
    """Pairs of name prefixes of stage 1 … 4 of a ResNet, which is res2 … res5 in Detectron2."""
    theirs, ours = f"{theirs}res{number + 1}.#.", f"{ours}layer{number}.#."
    return (
        (f"{theirs}conv#.norm.", f"{ours}bn#."),
        (f"{theirs}conv#.", f"{ours}conv#."),
        (f"{theirs}shortcut.norm.", f"{ours}downsample.1."),
        (f"{theirs}shortcut.", f"{ours}downsample.0."),
    )


def box_head(theirs: str, ours: str) -> Pairs:
    """Pairs of name prefixes of a box head's trunk: convolutions, then fully connected layers.

    Detectron2 counts the layers of each kind from 1.
    """
    convs = (
        ((f"{theirs}conv{n + 1}.norm.", f"{ours}convs.{n}.1."), (f"{theirs}conv{n + 1}.", f"{ours}convs.{n}.0."))
        for n in range(16)
    )
    fcs = ((f"{theirs}fc{n + 1}.", f"{ours}fcs.{n}.") for n in range(16))
    return (*(pair for pairs in convs for pair in pairs), *fcs)


BOX: Pairs = (
    *box_head("roi_heads.box_head.", "box.trunk."),
    ("roi_heads.box_predictor.cls_score.", "box.cls_score."),
    ("roi_heads.box_predictor.bbox_pred.", "box.bbox_pred."),
)
CASCADE: Pairs = (
    *box_head("roi_heads.box_head.#.", "box.stages.#.trunk."),
    ("roi_heads.box_predictor.#.cls_score.", "box.stages.#.cls_score."),
    ("roi_heads.box_predictor.#.bbox_pred.", "box.stages.#.bbox_pred."),
)
MASK: Pairs = (
    *(
        (f"roi_heads.mask_head.mask_fcn{n + 1}{norm}", f"mask.convs.{n}.{layer}.")
        for n in range(16)
        for norm, layer in ((".norm.", 1), (".", 0))
    ),
    ("roi_heads.mask_head.deconv.", "mask.upsample."),
    ("roi_heads.mask_head.predictor.", "mask.masks."),
)
RETINA: Pairs = (
    *(
        (f"head.{theirs}_subnet.{2 * n}.", f"head.{ours}_tower.{n}.0.")  # a ReLU follows each convolution
        for n in range(16)
        for theirs, ours in (("cls", "class"), ("bbox", "box"))
    ),
    ("head.cls_score.", "head.cls_score."),
    ("head.bbox_pred.", "head.bbox_pred."),
)


def semantic_fpn(ours: str) -> Pairs:
    """Pairs of name prefixes of Panoptic FPN's semantic head; our names start with `ours`.

    Detectron2 counts convolutions and upsamplings (every second layer) together.
    """
    levels = (
        (f"sem_seg_head.p#.{2 * n}{norm}", f"{ours}branches.p#.{n}.0.{layer}.")
        for n in range(8)
        for norm, layer in ((".norm.", 1), (".", 0))
    )
    return (*levels, ("sem_seg_head.predictor.", f"{ours}logits."))


def aspp(theirs: str, ours: str) -> Pairs:
    """Pairs of name prefixes of atrous spatial pyramid pooling, whose 3×3 convolutions may be depthwise separable."""
    branches = tuple(
        (f"{theirs}convs.{n}{part}{norm}", f"{ours}branches.{n}.{place}{layer}.")
        for n in range(4)
        for part, place in ((".depthwise", "0."), (".pointwise", "1."), ("", ""))
        for norm, layer in ((".norm.", 1), (".", 0))
    )
    return (
        *branches,
        (f"{theirs}convs.4.1.", f"{ours}pooled.0."),
        (f"{theirs}project.norm.", f"{ours}project.1."),
        (f"{theirs}project.", f"{ours}project.0."),
    )


DEEPLAB_V3: Pairs = (*aspp("sem_seg_head.aspp.", "head.aspp."), ("sem_seg_head.predictor.", "head.logits."))
DEEPLAB_V3_PLUS: Pairs = (
    *aspp("sem_seg_head.decoder.res5.project_conv.", "head.aspp."),
    ("sem_seg_head.decoder.res2.project_conv.norm.", "head.low.1."),
    ("sem_seg_head.decoder.res2.project_conv.", "head.low.0."),
    ("sem_seg_head.decoder.res2.fuse_conv.#.norm.", "head.decoder.#.1."),
    ("sem_seg_head.decoder.res2.fuse_conv.#.", "head.decoder.#.0."),
    ("sem_seg_head.predictor.", "head.logits."),
)


def conv5x5(theirs: str, ours: str, separable: bool) -> Pairs:
    """Pairs of name prefixes of a depthwise 5×5 and a 1×1 convolution, or of two plain 3×3 convolutions."""
    return tuple(
        (f"{theirs}{layer}{norm}", f"{ours}{n}.{place}.")
        for n, layer in enumerate(("depthwise", "pointwise") if separable else ("0", "1"))
        for norm, place in ((".norm.", 1), (".", 0))
    )


def fusion_decoder(theirs: str, ours: str, separable: bool) -> Pairs:
    """Pairs of name prefixes of a decoder of Panoptic-DeepLab."""
    fusions = (
        (
            (f"{theirs}{level}.project_conv.norm.", f"{ours}reduce.{n}.1."),
            (f"{theirs}{level}.project_conv.", f"{ours}reduce.{n}.0."),
            *conv5x5(f"{theirs}{level}.fuse_conv.", f"{ours}fuse.{n}.", separable),
        )
        for n, level in enumerate(("res3", "res2"))
    )
    return (*aspp(f"{theirs}res5.project_conv.", f"{ours}aspp."), *(pair for pairs in fusions for pair in pairs))


def panoptic_deeplab(separable: bool) -> Pairs:
    """Pairs of name prefixes of the heads of Panoptic-DeepLab; the center branch is never separable."""
    return (
        *fusion_decoder("sem_seg_head.decoder.", "semantic.decoder.", separable),
        *conv5x5("sem_seg_head.head.", "semantic.conv.", separable),
        ("sem_seg_head.predictor.", "semantic.logits."),
        *fusion_decoder("ins_embed_head.decoder.", "center.decoder.", separable),
        *conv5x5("ins_embed_head.center_head.", "center.center.0.", False),
        ("ins_embed_head.center_predictor.", "center.center.1."),
        *conv5x5("ins_embed_head.offset_head.", "center.offset.0.", separable),
        ("ins_embed_head.offset_predictor.", "center.offset.1."),
    )
