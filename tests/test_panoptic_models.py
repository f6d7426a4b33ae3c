"""Panoptic FPN and Panoptic-DeepLab: class indices of each head, losses, output sizes, fine-tuning, and errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from checkpoint_toys import own
from detection_toys import train_on_fake_tensors
from panoptic_files import reader, write_panoptic
from torch import nn

from chordate.errors import ConfigError, DataError
from chordate.evaluation import PanopticMetric
from chordate.ops.instance_centers import center_targets
from chordate.registry import MODELS
from chordate.structures import IGNORED, Batch, DatasetMeta, ImageInfo, InstanceTargets, PanopticTargets
from chordate.weights.loading import load_checkpoint

META = DatasetMeta(("sky", "cat", "grass", "dog"), stuff=("sky", "grass"))  # neither things nor stuff come first
BACKBONE = {"type": "resnet18", "base_channels": 8, "norm": "BN", "zero_init_last": True}


def panoptic_fpn(meta: DatasetMeta = META, **changes) -> nn.Module:
    torch.manual_seed(0)
    parts = {
        "type": "TwoStageDetector",
        "backbone": BACKBONE,
        "neck": {"type": "FPN", "channels": 16},
        "rpn": {"type": "RPNHead", "post_nms_topk": (50, 50), "anchors": {"sizes": [8, 16, 32, 64, 128]}},
        "box": {"type": "BoxHead", "trunk": {"type": "ConvFC", "fc_channels": 64}, "batch_size_per_image": 32},
        "mask": {"type": "MaskHead", "channels": 16},
        "semantic": {
            "type": "SemanticFPNHead",
            "channels": 32,
            "losses": [{"type": "CrossEntropy", "loss_weight": 0.5}],
        },
        "merge": {"stuff_area": 20},
    }
    return MODELS.build({**parts, **changes}, meta=meta)


def panoptic_deeplab(meta: DatasetMeta = META, **changes) -> nn.Module:
    torch.manual_seed(0)
    narrow = {"channels": 32, "aspp_channels": 32, "rates": [1, 2], "norm": "BN", "aspp_dropout": 0.0}
    parts = {
        "type": "PanopticDeepLab",
        "backbone": {**BACKBONE, "output_stride": 16, "out": ["c2", "c3", "c5"]},
        "semantic": {"type": "PanopticDeepLabHead", **narrow},
        "center": {"type": "CenterOffsetHead", "sigma": 3.0, **narrow},
        "stuff_area": 20,
    }
    return MODELS.build({**parts, **changes}, meta=meta)


MODELS_HERE = {"fpn": panoptic_fpn, "deeplab": panoptic_deeplab}


@pytest.fixture
def batch(tmp_path) -> Batch:
    """A batch of two images of 32×40 pixels, with classes in the order of META."""
    write_panoptic(tmp_path)
    dataset = reader(tmp_path, meta=META)
    return dataset.collate([dataset[0, 0], dataset[0, 1]], 32)


def test_heads_know_things_and_stuff_by_their_own_labels(batch):
    model = panoptic_fpn()
    assert model.box.num_classes == 2 and model.semantic.logits.out_channels == 3
    instances = batch.targets.instances
    assert instances.labels[0, :3].tolist() == [1, 1, 3]  # cat, a crowd of cats, dog
    assert model.merger.thing_targets(instances).labels[0, :3].tolist() == [0, 0, 1]
    labels = batch.targets.labels
    expected = {IGNORED: IGNORED, 1: 0, 3: 0, 0: 1, 2: 2}  # all things have the label 0
    assert model.merger.semantic_labels(labels).flatten().tolist() == [expected[x] for x in labels.flatten().tolist()]


def test_the_semantic_loss_of_panoptic_fpn_is_half_the_cross_entropy(batch):
    model = panoptic_fpn()
    losses = model(batch)
    assert set(losses) == {"rpn_cls", "rpn_box", "box_cls", "box_reg", "mask", "semantic"}
    logits = F.interpolate(model.semantic(model.features(batch.images, batch.sizes)), (32, 64), mode="bilinear")
    labels = model.merger.semantic_labels(batch.targets.labels).long()
    torch.testing.assert_close(losses["semantic"], 0.5 * F.cross_entropy(logits, labels, ignore_index=IGNORED))


@pytest.mark.parametrize("build", MODELS_HERE.values(), ids=MODELS_HERE)
def test_every_part_of_a_panoptic_model_learns_from_the_losses(batch, build):
    model = build()
    sum(model(batch).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_panoptic_deeplab_reads_the_maps_of_its_neck(batch):
    """The center head's losses equal those computed from the neck's feature maps, and the neck gets gradients."""
    levels = {"channels": 16, "aspp_channels": 16, "rates": [1, 2], "level": "p5", "low_levels": ["p3", "p2"]}
    parts = {"semantic": {"type": "PanopticDeepLabHead", **levels}, "center": {"type": "CenterOffsetHead", **levels}}
    model = panoptic_deeplab(backbone=BACKBONE, neck={"type": "FPN", "channels": 24}, **parts).eval()
    maps = model.neck(model.backbone_features(batch))
    assert list(model.feature_specs()) == list(maps) and {x.shape[1] for x in maps.values()} == {24}
    losses = model.loss(batch)
    expected = model.center.loss(model.center(maps), batch.targets)
    torch.testing.assert_close({name: losses[name] for name in expected}, expected)
    sum(losses.values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.neck.lateral.parameters())
    assert [tuple(prediction.ids.shape) for prediction in model(batch)] == [(32, 40)] * 2


def test_losses_of_panoptic_deeplab_are_those_of_the_paper(batch):
    """Section 3.1: the losses are 200 times the MSE of the heatmap, 0.01 times the L1 loss of the offsets, and the
    cross-entropy of the hardest fifth of the labeled pixels, with a weight of 3 for small things."""
    model = panoptic_deeplab().eval()
    losses = model.loss(batch)
    targets, maps = batch.targets, model.backbone_features(batch)
    heatmap, offsets = (F.interpolate(x, (32, 64), mode="bilinear") for x in model.center(maps))
    truth = center_targets(targets.slots, targets.instances.valid & ~targets.instances.crowd, 3.0)
    labeled = targets.labels != IGNORED
    crowd = (targets.slots[..., None] == targets.instances.crowd.nonzero()[0, 1]).any(-1)
    assert crowd.any() and (targets.labels[crowd] == META.classes.index("cat")).all()
    squares = (heatmap[:, 0] - truth.heatmap)[labeled & ~crowd] ** 2
    torch.testing.assert_close(losses["center"], 200 * squares.mean())
    things = (truth.inside[:, None].expand_as(offsets)).nonzero(as_tuple=True)
    distances = (4 * offsets - truth.offsets)[things].abs().sum() / truth.inside.sum()
    torch.testing.assert_close(losses["offset"], 0.01 * distances)
    logits = F.interpolate(model.semantic(maps), (32, 64), mode="bilinear")
    entropy = F.cross_entropy(logits, targets.labels.long(), ignore_index=IGNORED, reduction="none")
    entropy = torch.where(targets.slots >= 0, 3 * entropy, entropy)[labeled]  # all things are small
    count = -(-len(entropy) // 5)
    torch.testing.assert_close(losses["semantic"], entropy.sort(descending=True).values[:count].mean())


@pytest.mark.parametrize("build", MODELS_HERE.values(), ids=MODELS_HERE)
def test_panoptic_predictions_have_the_size_of_the_original(batch, build):
    model = build().eval()
    batch.infos = [ImageInfo(0, "a", 50, 33), ImageInfo(1, "b", 32, 40)]
    for prediction, info in zip(model(batch), batch.infos):
        assert prediction.ids.shape == (info.height, info.width) and prediction.ids.dtype == torch.int32
        present = sorted(set(prediction.ids.unique().tolist()) - {0})
        assert present == list(range(1, len(prediction) + 1))
        assert prediction.areas.tolist() == [int((prediction.ids == number).sum()) for number in present]
        for label, is_thing in zip(prediction.labels.tolist(), prediction.is_thing.tolist()):
            assert is_thing == (META.classes[label] not in META.stuff)


@pytest.mark.parametrize("build", MODELS_HERE.values(), ids=MODELS_HERE)
def test_the_content_of_the_padding_does_not_change_a_panoptic_prediction(batch, build):
    model = build().eval().double()
    images = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    images[..., :32, :40] = batch.images[:1, :, :32, :40]
    noisy = torch.randint_like(images, 256)
    noisy[..., :32, :40] = images[..., :32, :40]
    first, second = (
        model(Batch(pixels, torch.tensor([[32, 40]]), [ImageInfo(0, "a", 32, 40)]))[0] for pixels in (images, noisy)
    )
    assert torch.equal(first.ids, second.ids) and torch.equal(first.scores, second.scores)
    assert first.ids.shape == (32, 40)


@pytest.mark.parametrize("build", MODELS_HERE.values(), ids=MODELS_HERE)
def test_no_shape_in_a_panoptic_step_depends_on_the_data(batch, build):
    losses = train_on_fake_tensors(build, batch)
    assert losses and all(loss.shape == () for loss in losses.values())


@pytest.mark.slow  # the test above finds shapes that depend on the data, the usual cause of graph breaks
@pytest.mark.parametrize("build", MODELS_HERE.values(), ids=MODELS_HERE)
def test_the_panoptic_step_compiles_whole(batch, build):
    """The targets and losses have no host sync and no shape that depends on the number of instances."""
    model = build()
    torch._dynamo.reset()
    compiled = torch.compile(lambda one: sum(model.loss(one).values()), fullgraph=True, backend="eager")
    assert compiled(batch).isfinite()
    torch._dynamo.reset()


@pytest.mark.parametrize("build", MODELS_HERE.values(), ids=MODELS_HERE)
def test_a_panoptic_model_trains_on_images_without_things(batch, build):
    instances = batch.targets.instances
    empty = InstanceTargets(
        instances.boxes.zero_(), instances.labels, instances.valid & False, instances.crowd & False, instances.masks
    )
    batch.targets = PanopticTargets(empty, batch.targets.labels.clamp(max=0), batch.targets.slots * 0 + IGNORED)
    losses = build()(batch)
    assert all(loss.isfinite() for loss in losses.values())


def test_a_detector_without_semantic_head_has_no_panoptic_tensors():
    detector = panoptic_fpn(semantic=None, merge=None)
    assert not [name for name in detector.state_dict() if "merger" in name or "semantic" in name]
    extra = panoptic_fpn().state_dict().keys() - detector.state_dict().keys()
    assert extra and all(name.startswith("semantic.") for name in extra)


def test_outputs_of_shared_classes_are_kept_when_fine_tuned_on_other_panoptic_data():
    """The things change from (cat, dog) to (dog, cow), the classes of the semantic head from (things, sky, grass) to
    (things, sea, sky)."""
    old, new = panoptic_fpn(), panoptic_fpn(DatasetMeta(("sea", "dog", "cow", "sky"), stuff=("sea", "sky")))
    for model, value in ((old, 1.0), (new, 2.0)):
        for layer in (model.box.cls_score, model.mask.masks, model.semantic.logits):
            nn.init.constant_(layer.bias, value)
        if value == 1.0:
            for layer in (model.box.cls_score, model.mask.masks, model.semantic.logits):
                layer.bias.data += torch.arange(len(layer.bias)) / 10
    report = load_checkpoint(new, own(old, META), strict=False)
    assert new.box.cls_score.bias.tolist() == pytest.approx([1.1, 2.0, 1.2])  # dog, cow, background
    assert new.mask.masks.bias.tolist() == pytest.approx([1.1, 2.0])
    assert new.semantic.logits.bias.tolist() == pytest.approx([1.0, 2.0, 1.1])
    assert report.notes["semantic.logits.bias"] == "2 of 3 things and stuff by name: things, sky"
    assert "1 of 2 things by name: dog" in report.notes["box.cls_score.bias"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": None}, "semantic needs a mask head"),
        ({"tta": {"flip": True}}, "semantic cannot be combined with keypoint or tta"),
        ({"merge": {"stuf_area": 3}}, "merge.*stuf_area"),
        ({"semantic": nn.Linear(1, 1)}, '"Linear" does not implement PixelHead'),
    ],
)
def test_what_panoptic_fpn_cannot_be_built_of_is_one_line(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        panoptic_fpn(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("out", "low_channels", "message"),
    [
        (
            ["c5"],
            (64, 32),
            r'2 entries for 0 .*maps \(none\); give one per map, or output more maps \(backbone: out=\["c2"',
        ),
        (["c2", "c3", "c5"], (8,), r"1 entries for 2 finer feature maps \(c3, c2\); give one per map$"),
    ],
)
def test_the_finer_maps_of_panoptic_deeplab_are_counted(out, low_channels, message):
    center = {"type": "CenterOffsetHead", "low_channels": low_channels}
    with pytest.raises(ConfigError, match=f"low_channels has {message}"):
        panoptic_deeplab(
            backbone={**BACKBONE, "output_stride": 16, "out": out},
            semantic={"type": "FCNHead", "level": "c5"},
            center=center,
        )


@pytest.mark.parametrize("build", MODELS_HERE.values(), ids=MODELS_HERE)
@pytest.mark.parametrize(("stuff", "lacking"), [((), "stuff"), (META.classes, "things")])
def test_data_without_stuff_or_things_is_named(build, stuff, lacking):
    with pytest.raises(ConfigError, match=f"the data has no {lacking}"):
        build(DatasetMeta(META.classes, stuff=stuff))


@pytest.mark.parametrize("build", MODELS_HERE.values(), ids=MODELS_HERE)
def test_targets_of_detection_are_refused_by_a_panoptic_model(batch, build):
    batch.targets = batch.targets.instances
    with pytest.raises(DataError, match="trains on PanopticTargets, but the dataset has InstanceTargets"):
        build()(batch)


# Panoptic FPN is marked slow, since test_panoptic_commands.py always trains one.
@pytest.mark.parametrize(
    ("build", "steps", "lr"),
    [pytest.param(panoptic_fpn, 140, 3e-3, marks=pytest.mark.slow), (panoptic_deeplab, 65, 1e-2)],
    ids=MODELS_HERE,
)
def test_a_panoptic_model_learns_two_images(tmp_path, build, steps, lr):
    write_panoptic(tmp_path)
    pipeline = [{"type": "Resize", "size": [64, 80]}]
    dataset = reader(tmp_path, meta=META, pipeline=pipeline)
    batch = dataset.collate([dataset[0, 0], dataset[0, 1]], 32)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
    metric = PanopticMetric(dataset=dataset)
    metric.update(model.eval()(batch), batch)
    assert metric.compute()["PQ"] > 0.7
