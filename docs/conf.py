"""How the site is made of this folder, the project's own pages, the examples and docstrings.

bash docs/build.sh
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import docstrings  # noqa: E402

import mlp_xp  # noqa: E402

project = "mlp_xp"
author = "the mlp_xp authors"
project_copyright = "2026, the mlp_xp authors"
version = release = mlp_xp.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["build", "search.md", "gallery/*.py", "**sg_execution_times.rst"]
default_role = "py:obj"
templates_path: list[str] = []

html_theme = "furo"
html_title = f"mlp_xp {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
smartquotes = False
html_show_sphinx = False
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-dark"
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say it in words, signatures would not fit a line
autodoc_typehints_format = "short"

# Examples are run where what they import is installed, and shown in any case.
RUN = [
    path.stem
    for path in sorted((ROOT / "examples").glob("*.py"))
    if "import cupy" not in path.read_text(encoding="utf-8") or importlib.util.find_spec("cupy")
]
sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": rf"/({'|'.join(RUN)})\.py$",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "default_thumb_file": str(HERE / "_static" / "example.svg"),
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 10**6,  # how long an example took here says nothing of elsewhere
    "remove_config_comments": True,
    "capture_repr": ("_repr_html_", "__repr__"),
}

# Pages that lie elsewhere in the repository, and where they stand here.
PAGES = {
    "README.md": "pages/readme.md",
    "CHANGELOG.md": "pages/changelog.md",
    "CONTRIBUTING.md": "pages/contributing.md",
    "SECURITY.md": "pages/security.md",
    "bench/README.md": "pages/benchmarks.md",
    "docs/search.md": "pages/search.md",  # search.html is Sphinx's own page
}
LINK = re.compile(r"\[((?:[^\[\]]|`[^`]*`)*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


def place(target: Path) -> str | None:
    """The page of this site that shows a file of the repository, from the site's root."""
    try:
        name = target.relative_to(ROOT).as_posix()
    except ValueError:
        return None
    if name in PAGES:
        return f"/{PAGES[name]}"
    if name.startswith("examples/") and target.suffix == ".py":
        return f"/gallery/{target.stem}.rst"
    if name == "examples":
        return "/gallery/index.rst"
    if name.startswith("docs/") and target.suffix in (".md", ".rst"):
        return f"/{name.removeprefix('docs/')}"
    return None


def relinked(text: str, folder: Path) -> str:
    """Links to files of the repository as links within the site; where it has none, words."""

    def link(found: re.Match[str]) -> str:
        words, path, anchor = found[1], found[2], found[3] or ""
        if path.startswith("/"):
            return found[0]
        page = place((folder / path).resolve())
        return f"[{words}]({page}{anchor})" if page else words

    return LINK.sub(link, text)


def read(app: Any, docname: str, source: list[str]) -> None:
    """A page's links, as the file lies in the repository."""
    if app.env.doc2path(docname).suffix == ".md":
        origin = {page: name for name, page in PAGES.items()}.get(f"{docname}.md")
        file = ROOT / origin if origin else HERE / f"{docname}.md"
        source[0] = relinked(source[0], file.parent)


def name_pictures(app: Any, doctree: Any) -> None:
    """A text for the gallery's small pictures, which come without."""
    from docutils import nodes

    for image in doctree.findall(nodes.image):
        stem = Path(image["uri"]).stem.removeprefix("sphx_glr_").removesuffix("_thumb")
        image["alt"] = image.get("alt") or f"The example {stem}"


def setup(app: Any) -> None:
    for name, page in PAGES.items():
        target = HERE / page
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    app.connect("source-read", read)
    app.connect("doctree-read", name_pictures)
    app.connect("autodoc-process-docstring", docstrings.process)
