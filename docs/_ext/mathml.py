"""Formulas as MathML, which browsers draw themselves: pages need no script from elsewhere, and read without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

log = logging.getLogger(__name__)


def _render(translator: HTML5Translator, node: nodes.Element, block: bool) -> None:
    try:
        drawn = latex2mathml.tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        log.warning("formula %r: %s", node.astext(), error, location=node)
    else:
        translator.body.append(f'<div class="math">{drawn}</div>' if block else drawn)
    raise nodes.SkipNode


def inline(translator: HTML5Translator, node: nodes.Element) -> None:
    """A formula in a line."""
    _render(translator, node, block=False)


def block(translator: HTML5Translator, node: nodes.Element) -> None:
    """A formula by itself."""
    _render(translator, node, block=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
