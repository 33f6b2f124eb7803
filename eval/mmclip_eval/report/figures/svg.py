"""matplotlib's SVG made fit for a page: the page's colours and font, unique ids, a title, and a third of the bytes."""

import hashlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping

from mmclip_eval.report.figures.style import CSS_COLOUR

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_NUMBER = re.compile(r"-?\d+\.\d+")
_STEP = re.compile(r"([MLQC])\s*([-\d. \n]+)|z", re.IGNORECASE)
_REFERENCE = re.compile(r"#([\w.-]+)")
# matplotlib states what is the default anyway; what it does not state here is inherited from the root.
_DEFAULTS = {
    "stroke-linejoin: round",
    "stroke-linecap: butt",
    "font-weight: 400",
    "text-anchor: start",
    "stroke-width: 1",
}
_HALO = "paint-order:stroke;stroke:var(--surface,Canvas);stroke-width:3px;stroke-linejoin:round"
_ROOT_STYLE = "display:block;overflow:visible;font-family:inherit;font-variant-numeric:tabular-nums"


def render(drawn: str, title: str, description: str, tips: Mapping[str, str]) -> str:
    """The figure as one `<svg>` element that can stand inside HTML any number of times.

    Args:
        drawn: What matplotlib wrote, with the sentinels of `style.py` as its only colours.
        title: Its accessible name.
        description: What a reader who does not see it should know.
        tips: Tool tip of each artist whose gid is `tip-KEY`. A gid `halo` gives text an outline in the card's colour.
    """
    source = ElementTree.fromstring(drawn)
    body = [child for child in map(_slim, list(source)) if child is not None]
    for element in body:
        _decorate(element, tips)
    root = ElementTree.Element("svg", {"viewBox": source.attrib["viewBox"], "role": "img", "class": "figure"})
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("style", _ROOT_STYLE)
    root.set("stroke-linejoin", "round")
    root.set("width", "100%")  # an attribute, so that the page's style sheet may say otherwise
    ElementTree.SubElement(root, "title").text = title
    ElementTree.SubElement(root, "desc").text = description
    root.extend(body)
    _flatten(root)
    _name_apart(root)
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _slim(element: ElementTree.Element) -> ElementTree.Element | None:
    """Without metadata, style sheets (they would reach the whole page), namespaces and needless digits."""
    element.tag, element.text, element.tail = _local(element.tag), (element.text or "").strip() or None, None
    if element.tag in ("metadata", "style"):
        return None
    element.attrib = {_local(name): value for name, value in element.attrib.items()}
    for name, value in list(element.attrib.items()):
        element.attrib.update(_attribute(name, value))
    if not element.get("style", "-"):
        del element.attrib["style"]
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    kept = [child for child in map(_slim, list(element)) if child is not None]
    element[:] = kept
    return None if element.tag in ("g", "defs") and not kept else element


def _attribute(name: str, value: str) -> dict[str, str]:
    if name == "style":
        return {name: _style(value)}
    if name == "d":
        return {name: _path(value)}
    if name in ("x", "y", "transform", "width", "height"):
        return {name: _NUMBER.sub(lambda match: _short(float(match[0]), 2), value)}
    return {}


def _style(style: str) -> str:
    rules = [rule.strip() for rule in style.split(";")]
    rules = [rule for rule in rules if rule and rule not in _DEFAULTS and not rule.startswith("font-family")]
    text = ";".join(rule.replace(": ", ":") for rule in rules)
    text = text.replace(
        "font-weight:700", "font-weight:600"
    )  # lighter than bold, which the measuring font does not have
    return _COLOUR.sub(lambda match: CSS_COLOUR[match[0].lower()], text)


def _short(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".") if decimals else f"{value:.0f}"
    return "0" if text in ("-0", "") else text


def _path(path: str) -> str:
    """The same path to a tenth of a px, its level and upright lines as `h` and `v`."""
    out, last_x, last_y = [], "", ""
    for match in _STEP.finditer(path):
        if match[1] is None:
            out.append("z")
            continue
        numbers = [_short(float(value), 1) for value in match[2].split()]
        x, y = numbers[-2], numbers[-1]
        if match[1] == "L" and y == last_y:
            out.append(f"H{x}")  # a dot is a stroke of no length, and keeps its H
        elif match[1] == "L" and x == last_x:
            out.append(f"V{y}")
        else:
            out.append(match[1] + " ".join(numbers))
        last_x, last_y = x, y
    return "".join(out)


def _decorate(element: ElementTree.Element, tips: Mapping[str, str]) -> None:
    """Turns the gids that stand for something into what they stand for."""
    for parent in element.iter():
        gid = parent.get("id", "")
        if gid == "halo":
            for text in parent.iter("text"):
                text.set("style", f"{text.get('style', '')};{_HALO}")
        elif gid.startswith("tip-"):
            tip = ElementTree.Element("title")
            tip.text = tips[gid]
            parent.insert(0, tip)
            parent.set("pointer-events", "all")  # also where the shape itself is not painted
        elif gid.startswith("image-"):
            _to_image(parent, tips[gid])


def _to_image(group: ElementTree.Element, uri: str) -> None:
    """A rectangle that matplotlib placed becomes the picture that fills it."""
    corners = [float(value) for value in re.findall(r"-?[\d.]+", group[0].get("d", ""))]
    left, bottom, right, top = corners[:4]  # M left bottom H right V top ...
    box = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    group[:] = [ElementTree.Element("image", {name: _short(value, 1) for name, value in box.items()} | {"href": uri})]


def _flatten(element: ElementTree.Element) -> None:
    """Drops the ids that nothing refers to, and then the groups that say nothing."""
    used = set(_REFERENCE.findall(" ".join(_links(element))))
    for item in element.iter():
        if item.get("id") not in used:
            item.attrib.pop("id", None)
    _unwrap(element)


def _unwrap(element: ElementTree.Element) -> None:
    children: list[ElementTree.Element] = []
    for child in element:
        _unwrap(child)
        children += list(child) if child.tag == "g" and not child.attrib else [child]
    element[:] = children


def _links(root: ElementTree.Element) -> list[str]:
    named = ("href", "clip-path")
    return [value for item in root.iter() for name, value in item.attrib.items() if name in named and "#" in value[:6]]


def _name_apart(root: ElementTree.Element) -> None:
    """Gives each id a prefix made of the figure's content, so that two figures on a page never share one."""
    prefix = "f" + hashlib.sha256(ElementTree.tostring(root)).hexdigest()[:10]
    names = {item.attrib["id"]: f"{prefix}-{place}" for place, item in enumerate(root.iter()) if "id" in item.attrib}
    for item in root.iter():
        for name in ("href", "clip-path"):
            if "#" in item.get(name, "")[:6]:
                item.set(name, _REFERENCE.sub(lambda match: f"#{names[match[1]]}", item.attrib[name]))
        if "id" in item.attrib:
            item.set("id", names[item.attrib["id"]])
