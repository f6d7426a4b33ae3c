"""The writer of configs: any setting is read back as it was, and no text in it becomes code."""

import ast
import math

import pytest

from chordate.config import load_config
from chordate.errors import ConfigError
from chordate.migration.config_writer import write_config

CODE = "__import__('pathlib').Path('executed').touch()"
TEXTS = [
    "men's",
    'a "quoted" word',
    f"x', {CODE}, 'y",
    f'x", {CODE}, "y',
    f"""x'", {CODE}, "'y""",
    f'x""" + {CODE} + """y',
    f"x\n{CODE}\n",
    f"x\r{CODE}",
    "ends with \\",
    "\\' \\\" \\n",
    "{{ fileBasename }} {{{{_base_",
    "tab\tnull\0 escape\x1b[31m bell\a",
    "\u2028 \u202e \ud800 \x85",
    "ä 象 {x} %s",
    "",
    " ",
]


def read(text, tmp_path):
    (tmp_path / "written.py").write_text(text, encoding="utf-8")
    return load_config(tmp_path / "written.py").to_dict()


@pytest.mark.parametrize("width", [0, 120], ids=["one line", "many lines"])
def test_any_text_is_read_back_as_it_was(width, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    padding = " " * width
    settings = {
        "text": TEXTS,
        "keys": {f"{text}{padding}": text for text in TEXTS},
        "mixed": [[text, {text: {"name": text}}] for text in TEXTS],
        "reserved": dict.fromkeys(("class", "None", "ﬁ", "a-b", "1", "self", "dict"), padding),
        "numbers": {0: 1.5, -1: 10**30, True: -0.0, None: 1e-300},
        "run": [3, 4, 5, 6],
        "empty": [{}, [], None, False],
    }
    values = {"_note": settings}
    assert read(write_config([], None, values), tmp_path) == values
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("lines", [TEXTS[:-2], [f"{text}." for text in TEXTS], *([text] for text in TEXTS)])
def test_a_docstring_stays_a_docstring(lines, tmp_path):
    text = write_config(lines, None, {"train": {"seed": 1}})
    assert [type(node) for node in ast.parse(text).body] == [ast.Expr, ast.Assign]
    assert read(text, tmp_path) == {"train": {"seed": 1}}


def test_numbers_that_are_not_finite_are_read_back(tmp_path):
    values = read(write_config([], None, {"_x": [math.inf, -math.inf, math.nan]}), tmp_path)["_x"]
    assert values[:2] == [math.inf, -math.inf] and math.isnan(values[2])


@pytest.mark.parametrize("base", TEXTS[:10])
def test_the_name_of_the_base_is_text(base, tmp_path):
    (node,) = ast.parse(write_config([], base, {})).body
    assert ast.literal_eval(node.value) == base


@pytest.mark.parametrize("value", [print, b"x", 1j, {1}, object(), [CODE, {"a": print}]])
def test_what_is_no_literal_is_refused(value):
    with pytest.raises(ConfigError, match="a config cannot contain"):
        write_config([], None, {"model": value})


@pytest.mark.parametrize("name", ["", "a b", f"x={CODE};y", "class", "a.b"])
def test_a_section_has_an_identifier_for_a_name(name):
    with pytest.raises(ConfigError, match="the name of a section must be an ASCII identifier"):
        write_config([], None, {name: 1})
