"""The wheel is complete, works outside the repository, and the command starts fast."""

import importlib
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from processes import run_forked

ROOT = Path(__file__).parents[1]


def has_setuptools() -> bool:
    """Whether setuptools is installed in a version that pyproject.toml allows."""
    try:
        return int(version("setuptools").partition(".")[0]) >= 77
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with an unpacked wheel, built from a copy of the sources because the build writes files there."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    left_out = shutil.ignore_patterns(".*", "build", "work_dirs", "data", "*.egg-info", "tests", "__pycache__")
    shutil.copytree(ROOT, source, ignore=lambda d, names: left_out(d, names) if Path(d) == ROOT else [])
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # With build isolation, pip installs setuptools into a new environment, which takes seconds.
    isolation = ["--no-build-isolation"] if has_setuptools() else []
    subprocess.run([*pip, "wheel", "--no-deps", *isolation, "--wheel-dir", folder, source], check=True)
    (wheel,) = folder.glob("chordate-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def run(code: str, site: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_wheel_builds_a_model_by_its_configs_name(installed, tmp_path):
    code = (
        "import chordate, chordate.backbones; print(chordate.__file__); print(chordate.backbones.__file__)\n"
        "model = chordate.build_model('faster-rcnn_r18_fpn_1x_coco', pretrained=False)\n"
        "print(type(model).__name__, len(model.classes))\n"
        "import sys; print('timm' in sys.modules)"
    )
    package, backbones, model, timm = run_forked(code, installed, tmp_path, {"chordate", "timm"}).splitlines()
    assert Path(package).is_relative_to(installed)
    assert Path(backbones).is_relative_to(installed)
    assert model == "TwoStageDetector 80"
    assert timm == "False"  # imported only when needed, since the import takes seconds


def test_a_wheel_puts_one_name_into_site_packages_and_one_command_into_bin(installed):
    names = {path.name: path for path in installed.iterdir()}
    (info,) = [name for name in names if name.endswith(".dist-info")]
    assert names.keys() == {"chordate", info}
    commands = (names[info] / "entry_points.txt").read_text().split()
    assert commands == ["[console_scripts]", "chordate", "=", "chordate.cli.main:main"]


def test_public_names_are_imported_lazily_from_their_modules():
    import chordate

    assert {"build_model", "train", "Backbone", "DatasetMeta", "BACKBONES"} <= {*chordate.__all__}
    for name in chordate.__all__:
        assert getattr(chordate, name).__class__.__name__ != "module" and name in dir(chordate)
    assert chordate.Backbone is importlib.import_module("chordate.contracts").Backbone
    with pytest.raises(AttributeError, match="module 'chordate' has no attribute 'build_modle'"):
        chordate.build_modle  # noqa: B018
    assert run("import sys, chordate; print('torch' in sys.modules)", ROOT, ROOT).strip() == "False"


def test_help_takes_less_than_a_second_and_does_not_import_torch():
    code = (
        "import sys\nfrom chordate.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    )
    assert run(code, ROOT, ROOT).splitlines()[-1] == "False"
    command = Path(sys.executable).with_name("chordate")
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([command, "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 1  # CPU time, since wall time depends on other processes
