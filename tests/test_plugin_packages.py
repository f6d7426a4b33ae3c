"""Installed plug-in packages: the example's model trains; using a name that two packages register is an error."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import call_with_sites
from test_packaging import has_setuptools

import chordate
from chordate.cli.main import main

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples/plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder in which pip installs the example, after building a wheel of it; neither step needs a network."""
    if not has_setuptools():
        pytest.skip("building a wheel without a network needs setuptools>=77 in this environment")
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--target", folder / "site"]
    subprocess.run([*pip, *options, folder / "source"], check=True)
    return folder / "site"


def command(*words: str | Path, cwd: Path, sites: list[Path]) -> subprocess.CompletedProcess:
    """Run a Chordate command with the packages of `sites` installed."""
    return call_with_sites(main, list(map(str, words)), sites=sites, cwd=cwd)


def test_the_example_trains_after_its_installation(site, tmp_path):
    options = ["train.iterations=1", "train.epochs=None", "train.tensorboard=False", "train_data.batch_size=4"]
    done = command("train", EXAMPLE / "disks.py", "--cfg-options", *options, cwd=tmp_path, sites=[site])
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "work_dirs/disks/log.jsonl").read_text().splitlines()
    records = {record["mode"]: record for record in map(json.loads, lines)}
    assert records["train"]["semantic"] > 0 and "mIoU" in records["val"]


def test_its_backbone_is_listed_once_it_is_installed(site, tmp_path):
    assert "patchnet_tiny" in command("list", "backbones", "patch*", cwd=tmp_path, sites=[site]).stdout
    assert "patchnet_tiny" not in command("list", "backbones", "patch*", cwd=tmp_path, sites=[]).stdout


def write_package(folder: Path, name: str, registration: str) -> Path:
    """Write a package as if pip had installed it in `folder`; its entry point is a module that runs `registration`."""
    module = name.replace("-", "_")
    info = folder / f"{module}-2.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(f"from chordate import BACKBONES, Backbone\n{registration}\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[chordate.plugins]\n{module} = {module}\n")
    return folder


TYPE = "@BACKBONES.register_module()\nclass PatchNet(Backbone): ..."
VARIANT = "BACKBONES.register_variants({'patchnet_tiny': dict(type='ResNet', depth=18)})"


@pytest.mark.parametrize(("registration", "name"), [(TYPE, "PatchNet"), (VARIANT, "patchnet_tiny")])
def test_a_name_of_two_plugins_is_an_error_that_names_both_packages(site, tmp_path, registration, name):
    other = write_package(tmp_path / "other", "zz-patches", registration)
    options = ["--cfg-options", f"model.backbone={name}"]
    done = command("train", EXAMPLE / "disks.py", *options, cwd=tmp_path, sites=[site, other])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f'backbone "{name}" is registered twice, by ' in line and "Traceback" not in line
    assert "chordate-disks 0.1.0 (chordate_disks.backbone)" in line and "zz-patches 2.0 (zz_patches)" in line


def test_two_plugins_with_one_name_do_not_stop_runs_that_do_not_use_it(site, tmp_path):
    other = write_package(tmp_path / "other", "zz-patches", TYPE)
    done = command("list", "backbones", "patchnet*", cwd=tmp_path, sites=[site, other])
    assert done.returncode == 0 and "patchnet_tiny" in done.stdout


def print_layers() -> None:
    chordate.list_backbones()
    print(len(chordate.build_backbone("resnet18").layer3))


def test_a_plugin_cannot_replace_a_name_of_chordate(tmp_path):
    taken = "BACKBONES.register_variants({'resnet18': dict(type='ResNet', depth=34)})"
    other = write_package(tmp_path / "other", "zz-patches", f"import chordate.backbones\n{taken}")
    done = call_with_sites(print_layers, sites=[other], cwd=tmp_path, warning="always")
    assert (
        'backbone "resnet18" is registered twice, by chordate.backbones.resnet_variants and zz-patches' in done.stderr
    )
    assert done.stdout.strip() == "2", done.stderr  # ResNet-18 has 2 blocks in c4, ResNet-34 has 6
