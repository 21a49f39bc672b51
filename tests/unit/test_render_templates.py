"""Templates: strict, and their errors say where."""

from __future__ import annotations

import pytest

from labctl.errors import LabError
from labctl.render.templates import render_text


def test_a_template_is_filled_in() -> None:
    source = "# hosts\n{% for h in hosts %}\n  {{ h.name }}\n  {% endfor %}\n"
    assert render_text(source, "hosts", {"hosts": [{"name": "a"}, {"name": "b"}]}) == "# hosts\n  a\n  b\n"


def test_the_last_newline_is_kept() -> None:
    assert render_text("a\n", "t", {}) == "a\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("one\n{{ nobody }}\n", r"^web\.conf:2: 'nobody' is undefined$"),
        ("{{ node.nobody }}", r"^web\.conf:1: .* has no attribute 'nobody'$"),
        ("one\ntwo\n{% if nobody %}{% endif %}", r"^web\.conf:3: 'nobody' is undefined$"),
        ("one\n{% if node %}\n", r"^web\.conf:2: .*looking for"),
        ("one\n{{ node | nofilter }}", r"^web\.conf:2: .*nofilter"),
        ("\n{{ 1 / 0 }}", r"^web\.conf:2: division by zero$"),
        ("\n\n{{ node + 1 }}", r"^web\.conf:3: .*unsupported operand"),
        ("{% for a in [1] %}\n{{ a.b.c }}\n{% endfor %}", r"^web\.conf:2: .*no attribute 'b'"),
    ],
)
def test_an_error_says_template_and_line(source: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        render_text(source, "web.conf", {"node": {}})


def test_xml_is_escaped_and_text_is_not() -> None:
    assert render_text("{{ a }}", "a.xml.j2", {"a": "<&>"}) == "&lt;&amp;&gt;"
    assert render_text("{{ a }}", "a.conf.j2", {"a": "<&>"}) == "<&>"
