"""A small way to write SVG: elements with attributes, escaped, in the order they are drawn."""

from __future__ import annotations

from xml.etree import ElementTree

__all__ = ["Svg"]


class Svg:
    """A drawing; classes of its shapes are styled by the page that it is put into, or by `style`."""

    def __init__(self, width: float, height: float, title: str, style: str = "") -> None:
        self._root = ElementTree.Element(
            "svg",
            {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width:g} {height:g}", "role": "img"},
        )
        ElementTree.SubElement(self._root, "title").text = title
        if style:
            ElementTree.SubElement(self._root, "style").text = style

    def add(self, tag: str, text: str = "", *, hint: str = "", **attributes: object) -> None:
        """Draw a shape.

        Args:
            hint: shown when the pointer rests on it.
            attributes: `class_` for `class`, and `_` for `-`.
        """
        plain = {
            k.rstrip("_").replace("_", "-"): f"{v:.2f}" if isinstance(v, float) else str(v)
            for k, v in attributes.items()
        }
        element = ElementTree.SubElement(self._root, tag, plain)
        element.text = text or None
        if hint:
            ElementTree.SubElement(element, "title").text = hint

    def __str__(self) -> str:
        return ElementTree.tostring(self._root, encoding="unicode")
