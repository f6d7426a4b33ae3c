"""`chordate convert-config`: the command; a hostile file is a one-line error, and none of its code is executed."""

import os
import textwrap
import time
import tracemalloc
from pathlib import Path

import pytest
from converted_configs import write
from test_convert_detectron2_config import FPN, RETINA
from test_convert_mm_config import DATA, RETINANET

from chordate.cli.main import main
from chordate.config import load_config
from chordate.errors import ConfigError
from chordate.migration.config_conversion import Conversion, NotCarried
from chordate.migration.detectron2_config import convert_detectron2
from chordate.migration.mm_files import read_mm

ALIASES = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
YAML = {
    "runs a command": "MODEL: !!python/object/apply:os.system ['touch executed']",
    "makes an object": "MODEL: !!python/object/new:subprocess.Popen [['touch', 'executed']]",
    "evaluates code": "MODEL: !!python/object/apply:eval [\"__import__('os').system('touch executed')\"]",
    "evaluates an attribute": "MODEL: !!python/object/apply:eval ['().__class__.__bases__']",
    "is too large": "# " + "x" * 1_000_001,
    "is nested too deeply": "MODEL: " + "[" * 1500,
    "expands aliases": ALIASES,
    "contains itself": "MODEL: &a [*a]",
    "merges keys": MERGES,
    "inherits from itself": "_BASE_: hostile.yaml",
    "inherits from a device": "_BASE_: /dev/zero",
    "inherits from a number": "_BASE_: 3",
    "is no mapping": "[1, 2]",
    "is no YAML": "MODEL: {",
    "has a text for a section": "MODEL: {RPN: 3, ROI_HEADS: x, RESNETS: [], FPN: 1}",
    "has a text for a number": "SOLVER: {IMS_PER_BATCH: many}",
    "is not UTF-8": b"MODEL: \xff",
    "has a long number": "SOLVER: {BASE_LR: 0x" + "f" * 5000 + "}",
    "has a long number of base 60": "SOLVER: {BASE_LR: 1" + ":1" * 400_000 + "}",
    "repeats a text": "MODEL: {}\nx: &a '" + "(" * 90_000 + "'\ny: [" + "*a, " * 4000 + "]\nSOLVER: 3",
    "has no section of Detectron2": "Collections: [{Name: Faster R-CNN}]",
}
PYTHON = {
    "runs a command": "import os\nmodel = os.system('touch executed')",
    "imports in an expression": "model = __import__('os').system('touch executed')",
    "opens a file": "model = open('executed', 'w')",
    "has a loop": "while True: pass",
    "has a function": "def f(): open('executed', 'w')\nmodel = f()",
    "has a lambda": "model = (lambda: open('executed', 'w'))()",
    "has a decorated class": "@print\nclass A: pass",
    "reads attributes": "model = ''.__class__.__mro__",
    "formats": "model = f'{1:>1000000000}'",
    "repeats a list": "a = [0] * 10**9",
    "repeats a text": "a = 'x' * 10**9",
    "has a large power": "a = 9**9**9",
    "squares": "a = 10\n" + "a = a * a\n" * 40,
    "doubles": "a = [1]\n" + "a = a + a\n" * 40,
    "nests": "a = [1]\n" + "a = [a, a]\n" * 40,
    "slices a text": "s = 'x' * 99000\nt = [s[1:] for i in range(25000)]",
    "slices a list": "s = [1] * 9000\nt = [s[1:] for i in range(25000)]",
    "formats long texts": "s = 'x' * 99000\nt = [s for i in range(5000)]\nu = f'{t}'",
    "inherits from long texts": "s = 'x' * 99000\n_base_ = [[s for i in range(5000)]]",
    "copies its names": "".join(f"a{n} = 1\n" for n in range(20000)) + "b = [0 for i in range(90000)]",
    "loops in comprehensions": "r = range(1000)\na = [0 for x in r for y in r for z in r]",
    "is nested too deeply": "a = " + "(" * 1000 + ")" * 1000,
    "has a long sum": "a = " + "1 + " * 30000 + "1",
    "has a long chain": "a = dict()\nb = a" + ".x" * 30000,
    "is too large": "#" * 1_000_001,
    "inherits from itself": "_base_ = 'hostile.py'",
    "inherits from a device": "_base_ = '/dev/zero'",
    "inherits from an address": "_base_ = 'https://example.org/a.py'",
    "has no model": "a = 1",
    "has a model of another kind": "model = dict(type='YOLOX')\ntrain_dataloader = dict()",
    "has numbers for sections": "model = dict(type='FasterRCNN', backbone=3, neck=4)\ntrain_dataloader = 5",
    "has null bytes": "a = '\0'",
    "is a LazyConfig": "from detectron2.config import LazyCall as L\nmodel = L(object)()",
    "is imported by mmengine": "with read_base():\n    from .base import *",
}


@pytest.mark.parametrize(
    ("suffix", "text"),
    [("yaml", text) for text in YAML.values()] + [("py", text) for text in PYTHON.values()],
    ids=[f"yaml {name}" for name in YAML] + [f"py {name}" for name in PYTHON],
)
def test_a_hostile_file_is_one_line_of_error(tmp_path, monkeypatch, capsys, suffix, text):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"hostile.{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.process_time()
    assert main(["convert-config", path.name, "out.py"]) == 2
    assert time.process_time() - start < 20
    error = capsys.readouterr().err
    assert error.startswith("chordate convert-config: ") and error.count("\n") == 1 and len(error) < 600
    assert sorted(os.listdir(tmp_path)) == [path.name]


@pytest.mark.parametrize("name", ["slices a text", "slices a list", "formats long texts", "inherits from long texts"])
def test_a_hostile_python_file_needs_little_memory(tmp_path, name):
    path = tmp_path / "hostile.py"
    path.write_text(PYTHON[name])
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError):
            read_mm(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_the_table_of_a_long_setting_needs_little_memory():
    conversion = Conversion("hostile.yaml", not_carried=[NotCarried("x", ["y" * 100_000] * 15_000, "none", "nothing")])
    tracemalloc.start()
    try:
        assert len(conversion.table()) < 300
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_a_mistake_names_the_file_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("x.pt").touch()
    assert main(["convert-config", "x.pt"]) == 2
    assert capsys.readouterr().err.startswith("chordate convert-config: x.pt: must be a .yaml file")


def test_the_defaults_that_detectron2_writes_change_nothing(tmp_path):
    """Detectron2 saves all settings to `config.yaml`; this file has defaults of `ROI_BOX_HEAD` and `DATASETS`."""
    lines = """
        DATASETS: {PRECOMPUTED_PROPOSAL_TOPK_TEST: 1000, PRECOMPUTED_PROPOSAL_TOPK_TRAIN: 2000}
        MODEL: {ROI_BOX_HEAD: {FED_LOSS_FREQ_WEIGHT_POWER: 0.5, FED_LOSS_NUM_CLASSES: 50, USE_FED_LOSS: false}}
    """
    (tmp_path / "plain.yaml").write_text("MODEL: {}")
    (tmp_path / "all.yaml").write_text(textwrap.dedent(lines))
    plain, all_settings = (convert_detectron2(tmp_path / name).not_carried for name in ("plain.yaml", "all.yaml"))
    assert all_settings == plain


def test_a_pipe_is_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert main(["convert-config", str(tmp_path / "pipe.yaml")]) == 2
    assert "pipe" in capsys.readouterr().err


def test_the_status_is_0_if_nothing_is_lost_and_1_if_numbers_change(tmp_path, capsys):
    path, out = write(tmp_path, retina_yaml=RETINA), tmp_path / "mine.py"
    assert main(["convert-config", str(path), str(out)]) == 0
    assert load_config(out).model.type == "OneStageDetector"
    assert "predicts and trains as the original" in capsys.readouterr().out
    assert main(["convert-config", str(path), str(out)]) == 2  # existing files are never overwritten
    deformable = "_BASE_: fpn.yaml\nMODEL: {RESNETS: {DEFORM_ON_PER_STAGE: [False, True, True, True]}}"
    path = write(tmp_path, fpn_yaml=FPN, mine_yaml=deformable)
    assert main(["convert-config", str(path), str(tmp_path / "other.py")]) == 1
    printed = capsys.readouterr().out
    assert "differs from the original in predictions" in printed
    heading, row = printed.splitlines()[:2]
    assert heading.split() == ["setting", "value", "changes", "reason"]
    assert row.index("predictions") == heading.index("changes")


def test_execute_runs_the_file(tmp_path, capsys):
    text = RETINANET + "\n    for number in range(2):\n        model['backbone']['depth'] += 25 * number + 13\n"
    path = write(tmp_path, base_py=text, data_py=DATA, mine_py="_base_ = ['base.py', 'data.py']")
    assert main(["convert-config", str(path)]) == 2
    assert "--execute" in capsys.readouterr().err
    assert main(["convert-config", str(path), "--execute"]) == 0
    assert "retinanet_r101_fpn_1x_coco" in capsys.readouterr().out
