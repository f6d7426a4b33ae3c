"""Mistakes on the command line, also of users of other frameworks, are one-line errors that name the remedy."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from chordate.cli import other_frameworks
from chordate.cli.main import COMMANDS, main, parser
from chordate.data.loader import TrainingData
from chordate.signatures import parameters_of
from chordate.training.schedule import Step
from chordate.training.settings import TrainSettings

CONFIG = "faster-rcnn_r18_fpn_demo_shapes"
MISTAKES = [
    (["train", CONFIG, "--work-dir", "a_file"], "a_file"),
    (["train", CONFIG, "--cfg-options", "train_dataloader.batch_size=2"], "`train_dataloader` is called `train_data`"),
    (["train", CONFIG, "--cfg-options", "SOLVER.BASE_LR=2"], "`SOLVER.BASE_LR` is called `optimizer.lr` here"),
    (["train", CONFIG, "--cfg-options", "optim_wrapper.optimizer.lr=2"], "is called `optimizer.lr` here"),
    (["train", CONFIG, "--cfg-options", "model.rpn_head.in_channels=256"], '"rpn_head"; did you mean "rpn"?'),
    (
        ["train", CONFIG, "--cfg-options", "model.roi_head.bbox_head.num_classes=3"],
        '"roi_head"; did you mean "box" or "mask" or "keypoint"?',
    ),
    (
        ["train", CONFIG, "--cfg-options", "model.num_classes=3"],
        '"num_classes"; the number of classes comes from the da',
    ),
    (["train", CONFIG, "--cfg-options", "model.roi_heads.num_classes=3"], '"roi_heads"; did you mean "box" or "mask"'),
    (["train", CONFIG, "--cfg-options", "optimizer.learning_rate=1"], '"learning_rate"; did you mean "lr"?'),
    (["train", CONFIG, "--cfg-options", "data.samples_per_gpu=2"], "`data.samples_per_gpu` is called `train_data.bat"),
    (["train", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"], "no such config file; `chordate convert-config` conv"),
    (["train", CONFIG, "--data-root", ".", "--load-from", "nothing.pth"], "load_from: no checkpoint nothing.pth"),
    (["train", CONFIG, "--data-root", "."], "(data root: ., set by --data-root or CHORDATE_DATA)"),
    (["train", CONFIG, "--cfg-options", "train_data.dataset.ann_file=a"], '"ann_file"; did you mean "annotations"?'),
    (["train", CONFIG, "--cfg-options", "train_data.dataset.img_prefix=a"], '"img_prefix"; did you mean "images"?'),
    (["train", CONFIG, "--cfg-options", "train=x"], "section `train` is 'x'"),
    (["train", CONFIG, "--cfg-options", "custom_imports.imports=[no_such_module]"], "no_such_module"),
    (["test", CONFIG, "a.pt", "--out", "."], "name the file to write"),
    (["summary", "resnet18", "--size", "0", "0"], "at least 32 pixels"),
    (["train", "faster-rcnn_r50_fpn_1x_koko"], 'did you mean "faster-rcnn_r50_fpn_1x_coco"'),
    (["train", CONFIG, "--data-root", "/no/such/folder"], "/no/such/folder"),
    (["train", CONFIG, "--cfg-options", "optimiser.lr=1"], 'did you mean "optimizer"'),
    (["train", CONFIG, "--cfg-options", "model.backbone.type=Resnet50"], 'did you mean "resnet50"'),
    (["train", CONFIG, "--cfg-options", "optimizer.type=SDG"], 'did you mean "SGD"'),
    (["train", CONFIG, "--cfg-options", "schedule.type=steps"], 'did you mean "step"'),
    (["train", CONFIG, "--cfg-options", "train.epoch=3"], 'did you mean "epochs"'),
    (["train", CONFIG, "--cfg-options", "train_data.batchsize=3"], 'did you mean "batch_size"'),
    (["train", CONFIG, "--cfg-options", "train.save_best=bbox_PA"], 'did you mean "bbox_AP"'),
    (["train", CONFIG, "--cfg-options", "train_data.dataset.classes=[circel]"], 'did you mean "circle"'),
    (["test", CONFIG, "no_such_checkpoint.pth"], "no_such_checkpoint.pth"),
    (["predict", CONFIG, "no_such_checkpoint.pth", "a.jpg"], "a.jpg"),
    (["train", CONFIG, "--cfg-options", "metric=CocoMetrc"], '--cfg-options: metric: unknown metric "CocoMetrc"'),
    (["train", CONFIG, "--cfg-options", "metric.typo=1", "metric.type=CocoMetric"], "--cfg-options: metric: unknown s"),
    (["train", CONFIG, "--cfg-options", "metric=5"], "--cfg-options: section `metric` is 5"),
    (
        ["train", CONFIG, "--cfg-options", "train_data.pipeline=[ToImage,RandomHorizontalFlp]"],
        '--cfg-options: train_data.pipeline.1: unknown transform "RandomHorizontalFlp"; did you mean',
    ),
    (
        ["train", CONFIG, "--cfg-options", "model.backbone.pretrained=5"],
        "--cfg-options: model.backbone.pretrained must be",
    ),
    (["train", CONFIG, "--cfg-options", "val_data.batch_sise=2"], '--cfg-options: unknown setting of val_data "batch_'),
    (["train", CONFIG, "--cfg-options", "model.preprocess.men=2"], 'unknown setting of model.preprocess "men"; did'),
    (["train", CONFIG, "--cfg-options", "model.tta.scale=2"], '--cfg-options: unknown setting of model.tta "scale"'),
    (
        ["train", CONFIG, "--cfg-options", "model.rpn.anchors.size=2"],
        '--cfg-options: unknown setting of model.rpn.anchors "size"; did you mean "sizes"',
    ),
    (["predict", CONFIG, "a.pt", "a.jpg", "--score-threshold", "50"], "--score-threshold must be ≥ 0 and ≤ 1, got 50"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a)[-60:] for a, _ in MISTAKES])
def test_a_mistake_is_a_one_line_error_and_status_2(arguments, message, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHORDATE_DATA", str(shapes))
    (tmp_path / "a_file").write_text("")
    extra = ["train_data.workers=0", "val_data.workers=0"]
    if arguments[0] == "train":
        arguments = [*arguments, *extra] if "--cfg-options" in arguments else [*arguments, "--cfg-options", *extra]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith(f"chordate {arguments[0]}:")]
    assert len(errors) == 1 and message in errors[0]
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["browse", "x", "--count", "abc"], "chordate browse: argument --count: invalid int value: 'abc'"),
        (["predict", "x", "y", "z", "--precision", "fp8"], "chordate predict: argument --precision: invalid choice: "),
        (
            [],
            "chordate: name a command: browse, check, train, test, predict, features, convert, export, summary, ",
        ),
        (["train"], "chordate train: the following arguments are required: config"),
        (["trian", "x"], 'chordate: unknown command "trian"; did you mean "train"'),
        (["val", "x"], "chordate: no command val; write chordate test CONFIG CHECKPOINT"),
        (["detect", "train"], "chordate: no command detect; write chordate train CONFIG, chordate test CONFIG CHECK"),
        (["version"], "chordate: no command version; write chordate --version"),
        (
            ["predict", "x"],
            "chordate predict: the following arguments are required: checkpoint, IMAGE; type chordate predict CONFIG "
            "CHECKPOINT IMAGE, for example: chordate predict faster-rcnn_r50_fpn_1x_coco best_bbox_AP.pt street.jpg",
        ),
        (
            ["test", "x"],
            "chordate test: the following arguments are required: checkpoint; type chordate test CONFIG CHECKPOINT, ",
        ),
        (["train", "--config-file", "x.yaml"], "chordate train: no option --config-file; the config is the first arg"),
        (["train", "x", "--num-gpus", "8"], "chordate train: no option --num-gpus; start one process per GPU: to"),
        (["train", "x", "--launcher=pytorch"], "chordate train: no option --launcher; start one process per GPU: tor"),
        (["train", "x", "--eval-only"], "chordate train: no option --eval-only; write chordate test CONFIG CHECKPOINT"),
        (["train", "x", "--epochs", "3"], "chordate train: no option --epochs; write --cfg-options train.epochs=VALUE"),
        (["train", "x", "-b", "4"], "chordate train: no option -b; write --cfg-options train_data.batch_size=VALUE"),
        (["train", "x", "--lr_steps=8"], "chordate train: no option --lr_steps; write --cfg-options schedule.milesto"),
        (["predict", "x", "y", "z", "--device", "cpu"], "chordate predict: no option --device; set CUDA_VISIBLE_DEV"),
        (["train", "x", "--auto-scale-lr"], "chordate train: no option --auto-scale-lr; the learning rate is scaled"),
        (["train", "x", "--wrok-dir", "y"], 'chordate train: unknown option "--wrok-dir"; did you mean "--work-dir"'),
        (["train", "x", "--work_dir", "y"], "chordate train: --work_dir is written --work-dir here"),
        (["train", "x", "--cfg_options", "a=1"], "chordate train: --cfg_options is written --cfg-options here"),
        (
            ["train", "x", "SOLVER.IMS_PER_BATCH", "2"],
            "chordate train: `SOLVER.IMS_PER_BATCH` is called `train_data.batch_size` here; settings follow --cfg-",
        ),
        (
            ["test", "x", "y", "MODEL.WEIGHTS", "z.pth", "SOLVER.AMP.ENABLED", "True"],
            "chordate test: `MODEL.WEIGHTS` is called `train.load_from` here; `SOLVER` is called `optimizer` here; ",
        ),
        (
            ["train", "data=coco.yaml", "epochs=3"],
            'chordate train: no argument data; name data.yaml in a config: train_data.dataset of type="YoloDataset", '
            "see docs/own_data.md#yolo; `epochs` is called `train.epochs` here; settings follow",
        ),
        (
            ["predict", "source=a.jpg", "model=yolov8n.pt"],
            "chordate predict: no argument source, model; type chordate predict CONFIG CHECKPOINT IMAGE\n",
        ),
        (
            ["export", "format=onnx", "model=x.pt"],
            "chordate export: no argument format; write chordate export CONFIG CHECKPOINT --format onnx; no argument ",
        ),
        (
            ["train", "x", "device=cpu"],
            "chordate train: no argument device; set CUDA_VISIBLE_DEVICES=0 for the first G",
        ),
        (
            ["test", "x", "y", "MODEL.DEVICE", "cpu"],
            "chordate test: no argument MODEL.DEVICE; set CUDA_VISIBLE_DEVICES",
        ),
        (["train", "x", "optimizer.lr=1"], "chordate train: `optimizer.lr` is a setting; settings follow --cfg"),
        (["train", "x", "y"], "chordate train: unrecognized arguments: y; type chordate train CONFIG, for example: "),
    ],
)
def test_a_wrong_option_is_a_one_line_error_and_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    (line,) = capsys.readouterr().err.splitlines(keepends=True)
    assert stopped.value.code == 2 and line.startswith(message)


def test_the_advice_for_another_frameworks_option_names_a_setting_that_exists(capsys):
    """Our own options and commands must not be in the tables of `other_frameworks`, or they would only print advice."""
    settings = other_frameworks.TRAINING_SETTINGS
    assert not {*other_frameworks.COMMANDS} & {*COMMANDS}
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert not {*other_frameworks.OPTIONS, *settings} & {*re.findall(r"(?<![\w-])--?\w[\w-]*", capsys.readouterr().out)}
    owners = {"train": TrainSettings, "train_data": TrainingData, "schedule": Step, "optimizer": torch.optim.SGD}
    for section, _, name in (setting.partition(".") for setting in {*settings.values()} - {"optimizer.type"}):
        assert section == "model" or name in parameters_of(owners[section]).annotations, f"{section}.{name}"


def test_a_file_named_like_a_setting_is_a_file(tmp_path, monkeypatch, capsys):
    """Folders are often named after a setting of the run, such as `lr0=0.1`."""
    monkeypatch.chdir(tmp_path)
    Path("epochs=3").write_text("")
    assert main(["predict", CONFIG, "no_such.pt", "epochs=3"]) == 2
    assert main(["predict", CONFIG, "no_such.pt", "epochs=3/street.jpg"]) == 2
    assert "settings follow" not in capsys.readouterr().err
    words = ["train", CONFIG, "--cfg", "train.epochs=3", "optimizer.lr=1", "--work-dir", "lr=1"]
    assert parser().parse_args(words).cfg_options == {"train.epochs": 3, "optimizer.lr": 1}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_a_command_can_be_parsed(command):
    program, *words = shlex.split(COMMANDS[command].EXAMPLE)
    assert program == "chordate" and parser().parse_args(words).command == command


@pytest.mark.parametrize("option", ["--load-from", "--work-dir", "--resume", "--data-root"])
def test_an_empty_option_is_one_line(option, capsys):
    """An unset shell variable results in an empty option; training must not start from scratch or in another folder."""
    with pytest.raises(SystemExit) as stop:
        main(["train", CONFIG, option, ""])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        f"chordate train: argument {option}: must not be empty; leave the option out instead\n"
    )
