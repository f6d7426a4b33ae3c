"""The pages of the documentation: links resolve, code blocks run, spelling is American, tables are complete."""

import re
import tomllib
from ast import literal_eval
from pathlib import Path

import pytest
import torch
import yaml
from backbone_referee import without_init
from doc_commands import make_weights
from doc_pages import NAMES, ROOT, blocks, commands, files, page

import chordate
from chordate import registry
from chordate.config import list_configs, load_config
from chordate.models.build import config_meta
from chordate.registry import HEADS, MODELS, NECKS, OPTIMIZERS

# Links


def anchors(text: str) -> set[str]:
    """The anchors that GitHub generates for the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_links_point_to_existing_files_and_headings(name):
    text, folder = page(name), (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = (folder / path).resolve() if path else ROOT / name
        assert linked.exists() and linked.is_relative_to(ROOT), f"{name}: {target}"
        assert not anchor or anchor in anchors(linked.read_text(encoding="utf-8")), f"{name}: {target}"


def test_every_page_and_image_is_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        if path.suffix == ".md":
            links = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
            waiting += [(path.parent / link).resolve() for link in links if not link.startswith("http")]
    assert {path for path in (ROOT / "docs").rglob("*.*") if path.suffix in (".md", ".jpg", ".png")} <= reached


# Spelling

BRITISH = (
    r"\b(colou?red|\w*colour\w*|\w*(?:optimi|normali|recogni|initiali|summari|visuali|organi|generali|minimi|maximi)s"
    r"(?:e|ed|es|er|ers|ing|ation)|centres?|grey\w*|learnt|behaviours?|neighbours?|labelled|modelling|towards)\b"
)


@pytest.mark.parametrize("name", NAMES)
def test_spelling_in_the_pages_is_american(name):
    prose = re.sub(r"`[^`\n]*`", "", page(name))
    assert not [word for word in re.findall(BRITISH, prose) if word.lower() != "colored"]


# Code blocks


@pytest.mark.parametrize("name", NAMES)
def test_every_config_of_a_page_builds_its_model(name, tmp_path, monkeypatch):
    """Covers configs with `base`, except those with `custom_imports`, which the tests of their pages run."""
    monkeypatch.chdir(tmp_path)
    written = files(page(name))
    for file, text in written.items():
        Path(file).write_text(text, encoding="utf-8")
    for file, text in written.items():
        if re.search(r"^base = ", text, flags=re.M) and "custom_imports" not in text:
            meta = config_meta(load_config(file))
            count = None if meta and meta.stuff else 3  # a number of classes does not say which are stuff
            with without_init(), torch.device("meta"):
                model = chordate.build_model(file, num_classes=count, pretrained=False)
            assert isinstance(model, chordate.Model), file


@pytest.mark.parametrize("name", ["docs/backbones.md", "docs/weights.md"])
def test_the_blocks_of_a_page_run_in_order(name, tmp_path, monkeypatch):
    """Runs the blocks without a file name. To save time, random weights are zeros, also those of checkpoint files."""
    monkeypatch.chdir(tmp_path)
    named = set(files(page(name)).values())
    unnamed = [block for block in blocks(page(name), "python") if block not in named]
    assert unnamed
    scope: dict = {}
    with without_init():
        for file in re.findall(r'"([\w-]+\.pth)"', "".join(unnamed)):
            make_weights(Path(file))
        for block in unnamed:
            exec(block, scope)


def test_every_code_block_of_a_page_is_run_by_a_test():
    """Every page with Python blocks that have no file name has a test that runs them."""
    with_unnamed = {
        name for name in NAMES if set(blocks(page(name), "python")) - set(files(page(name)).values())
    }  # fmt: skip
    of_other_tests = {
        "README.md": "readme",
        "docs/deployment.md": "export",
        "docs/evaluate_on_coco.md": "docs_howtos",
        "docs/plugging.md": "plugging",
        "docs/tutorial.md": "docs_tutorial",
    }
    assert all((ROOT / f"tests/test_{name}.py").is_file() for name in of_other_tests.values())
    assert with_unnamed == {"docs/backbones.md", "docs/weights.md", *of_other_tests}


# Tables and lists


def test_the_table_of_the_readme_has_every_neck_and_head():
    table = page("README.md").split("| model | backbone | neck | heads |")[1].split("\n\n")[0]
    named = set(re.findall(r"`([A-Z]\w+)`", table))
    registered = {name for registry in (NECKS, HEADS) for name in registry.names()}
    packaged = {name for name in registered if (NECKS.get(name) or HEADS.get(name)).__module__.startswith("chordate.")}
    assert named == packaged - {"ConvFC", "StageTrunk"}  # these two are trunks: parts of heads


def test_every_config_family_of_the_readme_exists():
    table = page("README.md").split("| model | backbone | neck | heads |")[1].split("\n\n")[0]
    for family in re.findall(r"\b(?:Faster|Mask|Keypoint|Cascade Mask|Cascade) R-CNN|RetinaNet", table):
        assert list_configs(f"{family.lower().replace('r-cnn', 'rcnn').replace(' ', '-')}_*"), family
    assert "ImageClassifier" in MODELS.names()


def test_plugging_names_every_registry():
    names = {name for name in vars(registry) if name.isupper() and isinstance(vars(registry)[name], type(HEADS))}
    assert names - {"SCHEDULES"} == set(re.findall(r"^\| [^|]+\| ([A-Z]+) \|", page("docs/plugging.md"), flags=re.M))


def test_errors_for_renamed_settings_of_the_changelog_have_the_new_name():
    """Errors for old `fallback_` sections have the new names; other old names are reported as unknown settings."""
    for old, new in re.findall(r"^\| `(fallback_\w+)` \| `([\w.]+)` \|", page("CHANGELOG.md"), flags=re.M):
        with pytest.raises(chordate.ChordateError, match=f"`{old}` is called `{new}` here"):
            load_config({old: "coco"})
    with pytest.raises(chordate.ChordateError, match="mean"):
        chordate.build_model({"type": "ImageClassifier", "backbone": "resnet18", "mean": [1, 2, 3]}, num_classes=3)


def test_the_readme_is_short():
    assert len(page("README.md").splitlines()) <= 125


def test_ci_runs_the_readmes_two_commands_on_the_pythons_that_are_allowed():
    workflow = yaml.safe_load(page(".github/workflows/ci.yml"))
    job = workflow["jobs"]["test"]
    steps = [step["run"] for step in job["steps"] if "run" in step]
    assert [words[:2] for words in commands(page("README.md")) if words[0] == "make"] == [s.split() for s in steps]
    required = tomllib.loads(page("pyproject.toml"))["project"]["requires-python"].removeprefix(">=")
    assert job["strategy"]["matrix"]["python"][0] == required


def test_ci_runs_the_tests_of_exports_with_the_packages_without_which_they_are_skipped():
    steps = [
        step.get("run", "") for step in yaml.safe_load(page(".github/workflows/ci.yml"))["jobs"]["export"]["steps"]
    ]
    (install,), (imports,), (tests,) = ([s for s in steps if word in s] for word in ("install", "import ", "pytest"))
    assert "export" in install and "tests/test_export.py" in tests and '-m "slow or not slow"' in tests
    extra = tomllib.loads(page("pyproject.toml"))["project"]["optional-dependencies"]["export"]
    skipping = re.search(r"for package in (\(.+\)):\n +pytest.importorskip", page("tests/test_export.py"))
    for package in literal_eval(skipping[1]):
        assert package in imports and any(line.startswith(package) for line in extra)


def test_pre_commit_runs_the_tools_that_make_test_runs():
    config = yaml.safe_load(page(".pre-commit-config.yaml"))
    entries = " ".join(hook["entry"] for repo in config["repos"] for hook in repo["hooks"])
    developers = tomllib.loads(page("pyproject.toml"))["project"]["optional-dependencies"]["dev"]
    for tool in ("ruff check", "ruff format", "mypy"):
        assert tool in entries and tool.split()[0] in developers


def test_every_public_name_is_in_the_api_reference():
    """The reference lists public names (`chordate.build_model`), and registered components by class or module."""
    reference = "".join(page(name) for name in NAMES if name.startswith("docs/api/"))
    assert not [name for name in chordate.__all__ if not re.search(rf":: chordate\.{name}$", reference, flags=re.M)]
    registries = {value for value in vars(registry).values() if isinstance(value, type(HEADS))} - {OPTIMIZERS}
    for plugs in registries:
        for plug in map(plugs.get, plugs.names()):
            if plug is not None and plug.__module__.startswith("chordate.") and not plug.__name__.startswith("_"):
                module = plug.__module__
                assert re.search(rf":: {module}$|\.{plug.__name__}$", reference, flags=re.M), plug
