"""Sphinx configuration of the documentation site: `make docs`, then open `site/index.html`.

The pages are plain Markdown that GitHub also renders, so site-specific content is here: the navigation, and the
formatting of docstrings and signatures in the API reference. Sources are the pages in `docs/` and in the root folder.
"""

import re
from importlib import import_module
from itertools import accumulate
from pathlib import Path

from docutils.nodes import paragraph
from sphinx.addnodes import desc_signature
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import stringify_annotation

import chordate
from chordate import arguments

ROOT = Path(__file__).resolve().parents[1]
TYPES = ("class", "exception")
METADATA = re.compile(  # matches `Annotated[X, Predicate(…)]`, where X may have two levels of brackets
    r"~[\w.]+\.Annotated\[((?:[^\[\]]|\[(?:[^\[\]]|\[[^\[\]]*\])*\])*?), (?:~[\w.]+\(.*?\)|<[^>]*>)\]"
)
ALIASES = {
    name: stringify_annotation(annotation, "smart")
    for name, annotation in vars(arguments).items()
    if str(annotation).startswith("typing.Annotated")
}

NAVIGATION = {
    "Start": ["tutorial", "own_data", "own_backbone", "evaluate_on_coco", "From other libraries <coming-from>"],
    "Guides": [
        "configs",
        "augmentation",
        "classification",
        "semantic",
        "panoptic",
        "pose",
        "evaluation",
        "weights",
        "deployment",
        "untrusted_files",
        "plugging",
    ],
    "Reference": ["backbones", "results", "reliability", "upstream/onednn_1x1"],
    "API": [
        "api/functions",
        "api/contracts",
        "api/structures",
        "api/registries",
        "api/backbones",
        "api/necks_and_heads",
        "api/models",
        "api/data",
        "api/metrics",
        "api/training",
        "api/weights",
    ],
    "Project": ["README <../README>", "../CONTRIBUTING", "../CHANGELOG"],
}

project = "Chordate"
version = release = chordate.__version__
copyright = "the authors of Chordate"

# The Markdown pages are in the repository root and under `docs/`; other folders are excluded.
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md"]
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "docs"]
source_suffix = {".md": "markdown"}

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
smartquotes = False
myst_heading_anchors = 4
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_custom_sections = [("Attributes", "params_style")]  # formatted like the list of parameters
autodoc_inherit_docstrings = False
maximum_signature_line_length = 68
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = "Chordate"
html_copy_source = False


def add_navigation(app, docname: str, source: list[str]) -> None:
    """Add the table of contents of the sidebar to the start page; on GitHub the page has none."""
    if docname == root_doc:
        for caption, pages in NAVIGATION.items():
            source[0] += "\n".join(["\n\n```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```\n"])


def markdown_to_rst(app, what, name, obj, options, lines: list[str]) -> None:
    """Convert `code` and indented blocks of docstrings from Markdown to reStructuredText, and link documented names.

    "\\ " is reStructuredText's zero-width space, which is required between inline code and letters.
    """
    text = re.sub(r":\n\n(?=    )", "::\n\n", "\n".join(lines))
    prose, *spans = re.split(r"`([^`]+)`", text)
    rst = escape(prose)
    for code, prose in zip(spans[::2], spans[1::2]):
        code = " ".join(code.split())
        span = f":py:obj:`{code}`" if re.fullmatch(r"[A-Za-z_][\w.]*", code) else f"``{code}``"
        rst += ("" if rst[-1:].isspace() else "\\ ") + span + ("" if prose[:1].isspace() else "\\ ") + escape(prose)
    lines[:] = rst.split("\n")
    if what == "property":
        lines.insert(0, "")  # otherwise napoleon parses the text before a colon as the type


def escape(prose: str) -> str:
    """Escape stars and trailing underscores, which are markup in reStructuredText."""
    return re.sub(r"(\*|(?<=\w)_(?!\w))", r"\\\1", prose)


def shorten_signature(app, what, name, obj, options, signature: str | None, returns: str | None):
    """Write `PositiveInt` in place of `Annotated[int, Ge(ge=1)]`, and omit the `*args, **kwargs` of `nn.Module`."""
    if not signature or signature == "(*args: Any, **kwargs: Any)":
        return signature and "", returns
    for alias, annotation in ALIASES.items():
        signature = signature.replace(annotation, alias)
    signature = re.sub(r"= <[^>]*>", "= ...", signature)  # a default factory's value, which is not valid Python
    return METADATA.sub(r"\1", signature), returns


def find_public_name(app, env, node, contnode):
    """Resolve a bare class name in a docstring, such as `Model`, if only one documented class has this name."""
    objects = env.get_domain("py").objects
    target = node.get("reftarget", "").rsplit(".", 1)[-1]
    named = [entry for key, entry in objects.items() if key.rsplit(".", 1)[-1] == target and entry.objtype in TYPES]
    places = {(entry.docname, entry.node_id) for entry in named}
    if node.get("refdomain") != "py" or len(places) != 1:
        return None
    ((page, anchor),) = places
    return make_refnode(app.builder, node["refdoc"], page, anchor, contnode, target)


def add_anchors(app, doctree) -> None:
    """Add an anchor for each dotted path of an object, e.g. `chordate.Batch` and `chordate.structures.batch.Batch`.

    viewcode's pages of source code link back to an object by one of these paths, whichever viewcode finds first.
    """
    for signature in doctree.findall(desc_signature):
        name = signature.get("fullname")
        if not name or not signature.get("module"):
            continue
        owner = getattr(import_module(signature["module"]), name.split(".")[0])
        packages = accumulate(owner.__module__.split("."), "{}.{}".format)
        names = [f"{package}.{name}" for package in packages]
        signature["ids"] += [name for name in names if name not in signature["ids"]]


def leave_out_object(app, doctree) -> None:
    for line in list(doctree.findall(paragraph)):
        if line.astext() == "Bases: object":
            line.parent.remove(line)


def redirect_to_start_page(app, error: Exception | None) -> None:
    """Write `site/index.html`, which redirects to the start page `docs/index.html`."""
    start = f"{root_doc}.html"
    refresh = f'<meta http-equiv="refresh" content="0; url={start}">'
    html = f'<!DOCTYPE html>\n<title>Chordate</title>\n{refresh}\n<a href="{start}">Chordate</a>\n'
    (Path(app.outdir) / "index.html").write_text(html, encoding="utf-8")


def setup(app) -> None:
    app.connect("source-read", add_navigation)
    app.connect("autodoc-process-docstring", markdown_to_rst, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("missing-reference", find_public_name)
    app.connect("doctree-read", add_anchors)
    app.connect("doctree-read", leave_out_object)
    app.connect("build-finished", redirect_to_start_page)
