"""How Sphinx builds these pages: `make docs`, with every warning an error, and no network."""

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

from flowspan import __version__

project = "flowspan"
version = release = __version__
project_copyright = "the flowspan contributors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}

html_theme = "furo"
html_title = f"flowspan {__version__}"
html_theme_options = {
    "source_repository": "https://github.com/flowspan/flowspan/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]

myst_heading_anchors = 3

# Docstrings name things in single backticks, as the code has them.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
# Other packages have their own documentation, which the build does not fetch, and the types of
# settings name their validators.
nitpick_ignore_regex = [
    ("py:.*", r"(opentelemetry|pydantic|pydantic_settings|annotated_types|logging|uuid)\b.*"),
    ("py:.*", r"(collections|pathlib)\b.*|(Tracer|Meter|Logger)Provider|UUID|Path|Any|Mapping"),
    ("py:.*", r"flowspan\.(settings\._|objectives\.).*|flowspan\..*ConfigurationError"),
    ("py:.*", r"PydanticUndefined"),
]


def setup(app: Sphinx) -> None:
    """Show PromQL as plain text: its lexer does not know the names of recording rules."""
    app.add_lexer("promql", TextLexer)
