"""`chordate.predict` in float64 against torchvision, from the file to detections, including the resize."""

import pytest
import torch
from PIL import Image
from torchvision_referee import FULLY_CONNECTED, PROPOSALS, SIDE, WIDTH, narrow, scattered

import chordate
from chordate.data.image_io import read_image


@pytest.fixture(scope="module")
def files(cells, tmp_path_factory):
    """Two photos: a landscape one, and one that is cropped to portrait."""
    *paths, last = sorted((cells / "JPEGImages").glob("*.jpg"))[:2]
    portrait = tmp_path_factory.mktemp("photos") / "portrait.png"
    Image.open(last).crop((100, 0, 400, 480)).save(portrait)
    return [str(path) for path in (*paths, portrait)]


@pytest.fixture(scope="module")
def pair(files):
    images = [read_image(path) for path in files]
    small = [torch.nn.functional.interpolate(x[None].float(), (SIDE, SIDE))[0] for x in images]
    referee = scattered("fasterrcnn_resnet50_fpn", small, shifts=0.1, boxes=0.2, change=narrow)
    config = chordate.load_config(
        "faster-rcnn_r50_fpn_torchvision",
        {
            "model.backbone.type": "resnet18",
            "model.neck.channels": WIDTH,
            "model.box.trunk": {"type": "ConvFC", "fc_channels": FULLY_CONNECTED},
            "model.backbone.norm.eps": 1e-5,  # the config's eps of 0 is for the published weights
            "model.rpn.post_nms_topk": (PROPOSALS, PROPOSALS),
            "model.box.detections_per_image": 10_000,
            "val_data.pipeline": [
                {"type": "ToDtype", "dtype": "float64"},  # in float32, boxes would differ by more than the tolerance
                {"type": "ResizeShortestEdge", "size": SIDE, "max_size": 10_000, "rounding": "torchvision"},
            ],
        },
    )
    model = chordate.build_model(config, num_classes=90)
    chordate.load_checkpoint(model, referee.state_dict())
    return referee, model.double()


@torch.no_grad()
def test_predict_gives_torchvisions_detections(pair, files):
    referee, model = pair
    # One image at a time, as in `predict`, because padding changes results.
    wanted = [referee([read_image(path).double() / 255])[0] for path in files]
    ours = chordate.predict(model, files)
    total = equal = 0
    for theirs, mine in zip(wanted, ours, strict=True):
        assert len(theirs["scores"]) >= 50 and theirs["labels"].unique().numel() >= 5
        near = (
            ((mine.boxes[:, None] - theirs["boxes"][None]).abs().amax(-1) <= 1e-2)
            & ((mine.scores[:, None] - theirs["scores"][None]).abs() <= 1e-4)
            & (mine.labels[:, None] == theirs["labels"][None] - 1)
        )
        total += max(len(mine), len(theirs["scores"]))
        equal += min(int(near.any(0).sum()), int(near.any(1).sum()))
    assert equal == total, f"{equal} of {total}"
