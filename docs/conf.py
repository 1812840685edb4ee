"""How Sphinx builds these pages: `make docs`, with every warning an error, and no network."""

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
# What other packages define has its own documentation, which is not asked for at build time.
nitpick_ignore_regex = [
    ("py:.*", r"(opentelemetry|pydantic|pydantic_settings|logging|uuid|collections|pathlib)\b.*"),
    ("py:.*", r"(TracerProvider|MeterProvider|LoggerProvider|UUID|Path|Any|T|Callable|Mapping)"),
]
