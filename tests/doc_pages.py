"""Parses the pages of the documentation: code blocks, example files and command lines."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def page(name: str) -> str:
    """The text of a page, given by its path relative to the repository root."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of a language ("" for blocks without one), verbatim."""
    fenced = re.findall(r"^```(.*?)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for name, block in fenced if name == language]


def files(text: str) -> dict[str, str]:
    """Python code blocks whose first line names a file, such as `# my_backbone.py`, keyed by file name."""
    named = [(re.match(r"# (\w+\.py)\b", block), block) for block in blocks(text, "python")]
    return {match[1]: block for match, block in named if match}


def commands(text: str) -> list[list[str]]:
    """The words of each `$ command` in the console blocks, without comments."""
    lines = [line for block in blocks(text, "console") for line in block.splitlines()]
    return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]


def with_options(command: list[str], *options: str) -> list[str]:
    """The command with `options` appended to its `--cfg-options`."""
    if "--cfg-options" not in command:
        return [*command, "--cfg-options", *options] if options else command
    end = command.index("--cfg-options") + 1
    while end < len(command) and not command[end].startswith("--"):
        end += 1
    return [*command[:end], *options, *command[end:]]
