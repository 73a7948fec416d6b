"""How Sphinx makes the pages of these documents; ``scripts/docs`` runs it.

What is peculiar to gearhorn, and what checks the pages, is in ``scripts/manual.py``.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import gearhorn  # noqa: E402

project = "gearhorn"
author = "the gearhorn authors"
release = version = gearhorn.__version__
html_title = f"gearhorn {release}"
copyright = "Apache License 2.0"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosectionlabel", "sphinx.ext.napoleon", "manual"]
autosectionlabel_prefix_document = True
exclude_patterns = ["examples", "_build"]
nitpicky = True  # every name that is referred to is there
needs_sphinx = "8.1"

html_theme = "furo"
html_copy_source = False
html_show_copyright = False
templates_path: list[str] = []

# The signature has the types, the docstring's "Arguments" say what they mean.
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # the fields of a value as a list: their types are in the signature
napoleon_attr_annotations = False
# Types of others, and those two of payloads that are told in words.
nitpick_ignore_regex = [
    ("py:.*", r"(collections\.abc|pathlib|ssl|msgspec|typing|opentelemetry)\..*"),
    (
        "py:.*",
        r"(gearhorn\.client\.(sync|subscriber|payloads|message)\.)?(F|Payload|Headers|Ender)",
    ),
    ("py:.*", r"(re\.)?(tuple(\[str)?|Any|UNSET)|gearhorn\.otel\.Instrumented"),
]

# Links that are not tried: what is meant for one's own machine, and what refuses robots.
linkcheck_ignore = [r"https?://localhost.*", r"https?://127\.0\.0\.1.*"]
linkcheck_timeout = 10
linkcheck_retries = 2
linkcheck_anchors = False  # of comments, which GitHub's pages make by script
