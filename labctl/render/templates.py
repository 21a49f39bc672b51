"""labctl's one Jinja2 environment: what is not defined is an error, and an error says template and line."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, TemplateError, TemplateSyntaxError

from labctl.errors import LabError

__all__ = ["render_packaged", "render_text"]

# What an expression in a template can raise besides Jinja2's own errors: 1/0, 'a' + 1, {}['x'], 'x'.y().
_EXPRESSION_ERRORS = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

_ENVIRONMENT = Environment(
    loader=PackageLoader("labctl.render", "xml"),
    undefined=StrictUndefined,
    autoescape=lambda name: name is not None and name.endswith((".xml.j2", ".html.j2", ".svg.j2")),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render_text(source: str, name: str, context: Mapping[str, object]) -> str:
    """Render a template that is given as text.

    Args:
        source: the template.
        name: what errors call it; a name that ends in `.xml.j2`, `.html.j2` or `.svg.j2` turns escaping on.
        context: the variables that it may use.

    Raises:
        LabError: the template is wrong or uses what is not in `context`; names template and line.
    """
    try:
        return _compiled(source, name).render(context)
    except _EXPRESSION_ERRORS as error:
        raise LabError(f"{name}:{_line(error, name)}: {error}") from error


@cache
def _compiled(source: str, name: str) -> Template:
    """A template, compiled once: every node of a lab is rendered from the same few."""
    code = _ENVIRONMENT.compile(source, name=name, filename=name)
    return Template.from_code(_ENVIRONMENT, code, _ENVIRONMENT.make_globals(None))


def render_packaged(name: str, context: Mapping[str, object]) -> str:
    """Render one of labctl's own XML templates (`labctl/render/xml/`); raises as `render_text` does."""
    assert _ENVIRONMENT.loader is not None
    source, _, _ = _ENVIRONMENT.loader.get_source(_ENVIRONMENT, name)
    return render_text(source, name, context)


def _line(error: Exception, name: str) -> int:
    """The line of the template that raised `error`; Jinja2 puts the template's own frames into the traceback."""
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno or 0 for f in reversed(frames) if f.filename == name), 0)
