"""How the documentation is built: Sphinx, furo and MyST."""

from __future__ import annotations

from typing import Any

import attrs

import knowledgestack_async
from knowledgestack_async.models import WireObject

project = "knowledgestack-async"
copyright = "the knowledgestack-async contributors"  # noqa: A001 - Sphinx wants it by this name
release = version = knowledgestack_async.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "examples"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
default_role = "code"
suppress_warnings = ["autodoc.mocked_object"]
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = f"knowledgestack-async {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_theme_options = {"navigation_with_keys": True}


def fence_to_directive(
    _app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Docstrings show examples in Markdown's fences, which editors render; Sphinx reads directives."""
    found: list[str] = []
    indent: str | None = None
    for line in lines:
        text = line.lstrip()
        if text.startswith("```") and indent is None:
            indent = line[: len(line) - len(text)]
            language = text.removeprefix("```") or "text"
            found += ["", f"{indent}.. code-block:: {language}", ""]
        elif text.startswith("```"):
            indent = None
            found.append("")
        else:
            found.append(line if indent is None else f"   {line.replace('``', '')}".rstrip())
    lines[:] = found


def hide_constructor(
    _app: Any, what: str, _name: str, made: Any, *_rest: Any
) -> tuple[str, str | None] | None:
    """Nobody but the SDK makes answers and errors, so how that is done is no part of the page."""
    if what not in {"class", "exception"} or not attrs.has(made):
        return None
    return ("", None) if issubclass(made, WireObject | Exception) else None


def setup(app: Any) -> None:
    """Tell Sphinx of the above."""
    app.connect("autodoc-process-docstring", fence_to_directive)
    app.connect("autodoc-process-signature", hide_constructor)
