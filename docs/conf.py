"""How the documentation is built: ``python -m sphinx -W --keep-going -b html docs docs/_build/html``."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_extensions"))
sys.path.insert(0, str(DOCS.parent))

import ss_lightning  # noqa: E402

project = "ss_lightning"
author = "The ss_lightning developers"
copyright = f"2026, {author}"
release = version = ss_lightning.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "generated_pages",
    "site_links",
]
exclude_patterns = ["_build", "_extensions"]
# A reference to a name of ours that does not exist stops the build; generated_pages lets names of other packages pass.
nitpicky = True

# Markdown and notebooks. Notebooks keep the outputs that they were stored with.
myst_enable_extensions = ["colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
suppress_warnings = ["mystnb.unknown_mime_type"]

# Docstrings.
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autosummary_generate = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Source", "notes_style")]
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
add_module_names = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "ss_lightning"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5c91", "color-brand-content": "#0b5c91"},
    "dark_css_variables": {"color-brand-primary": "#6cb6ec", "color-brand-content": "#6cb6ec"},
}
