"""The picture of a topology: as SVG that stands alone, and as Mermaid. Pure."""

from __future__ import annotations

from labctl.report.svg import Svg
from labctl.topology.spec import ClusterSpec, LabSpec, NicSpec, NodeSpec

__all__ = ["mermaid", "svg"]

_STYLE = """
text { font: 13px system-ui, 'DejaVu Sans', sans-serif; fill: #1f2328 }
.name { font-size: 15px; font-weight: 600 }
.dim { fill: #59636e }
.box { fill: #f6f8fa; stroke: #59636e }
.lan { fill: #ddf4ff; stroke: #0969da }
.wire { stroke: #0969da; stroke-width: 2 }
.cluster { fill: #fff1e5; stroke: #bc4c00 }
.member { stroke: #bc4c00; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .dim { fill: #9198a1 } .box { fill: #151b23; stroke: #9198a1 }
.lan { fill: #10233f; stroke: #4493f8 } .cluster { fill: #3d1f0a; stroke: #f0883e }
}
"""
BOX, GAP, MARGIN = 190.0, 20.0, 20.0
LINE = 18.0


def svg(lab: LabSpec) -> str:
    """The lab as a picture: its nodes, below them the networks that they are on, above them the clusters."""
    tall = 50.0 + LINE * max(len(n.nics) for n in lab.nodes)
    top = MARGIN + (80.0 if lab.clusters else 0.0)
    bar = top + tall + 30.0
    width = 2 * MARGIN + max(3, len(lab.nodes)) * (BOX + GAP) - GAP
    height = bar + len(lab.networks) * 50.0 + MARGIN
    drawing = Svg(width, height, f"The lab {lab.name}", _STYLE)
    for row, network in enumerate(lab.networks):
        _network(drawing, f"{network.name} {network.subnet}", bar + row * 50.0, width)
    for column, node in enumerate(lab.nodes):
        x = MARGIN + column * (BOX + GAP)
        rows = sorted({[n.name for n in lab.networks].index(nic.network) for nic in node.nics})
        for row in rows:
            end = bar + row * 50.0
            drawing.add("line", class_="wire", x1=x + 30 + 20 * row, x2=x + 30 + 20 * row, y1=top + tall, y2=end)
        _node(drawing, node, x, top, tall)
    _clusters(drawing, lab, top)
    return str(drawing)


def _network(drawing: Svg, text: str, y: float, width: float) -> None:
    drawing.add("rect", class_="lan", x=MARGIN, y=y, width=width - 2 * MARGIN, height=34.0, rx=6)
    drawing.add("text", text, x=MARGIN + 10, y=y + 22)


def _node(drawing: Svg, node: NodeSpec, x: float, y: float, tall: float) -> None:
    drawing.add("rect", class_="box", x=x, y=y, width=BOX, height=tall, rx=6)
    drawing.add("text", node.name, class_="name", x=x + 10, y=y + 22)
    drawing.add("text", ", ".join(node.roles) or "no role", class_="dim", x=x + 10, y=y + 40)
    for row, nic in enumerate(node.nics):
        drawing.add("text", _nic(nic), x=x + 10, y=y + 40 + LINE * (row + 1))


def _nic(nic: NicSpec) -> str:
    extra = len(nic.extra_addresses) + len(nic.extra_addresses6)
    more = f" +{extra}" if extra else ""
    return f"{nic.name} {nic.address.ip}{more}"


def _clusters(drawing: Svg, lab: LabSpec, top: float) -> None:
    """Each cluster above its members, one beside the other."""
    columns = {node.name: i for i, node in enumerate(lab.nodes)}
    for i, cluster in enumerate(lab.clusters):
        places = [MARGIN + columns[m.node] * (BOX + GAP) + BOX / 2 for m in cluster.members]
        middle = (min(places) + max(places)) / 2 + i * (BOX + GAP)
        for place in places:
            drawing.add("line", class_="member", x1=middle, x2=place, y1=MARGIN + 46, y2=top)
        drawing.add("rect", class_="cluster", x=middle - BOX / 2 - 20, y=MARGIN, width=BOX + 40, height=46.0, rx=6)
        drawing.add("text", cluster.fqdn, class_="name", x=middle, y=MARGIN + 19, text_anchor="middle")
        drawing.add("text", _address(cluster), class_="dim", x=middle, y=MARGIN + 37, text_anchor="middle")


def _address(cluster: ClusterSpec) -> str:
    more = f" +{len(cluster.more_addresses)}" if cluster.more_addresses else ""
    return f"{cluster.address.ip}{more}, {cluster.mode}"


def mermaid(lab: LabSpec) -> str:
    """The lab as a Mermaid flowchart, which many wikis and code hosts draw."""
    lines = ["flowchart TB"]
    lines += [f'  net_{_id(n.name)}{{{{"{n.name}<br/>{n.subnet}"}}}}' for n in lab.networks]
    for node in lab.nodes:
        said = "<br/>".join([f"<b>{node.name}</b>", ", ".join(node.roles) or "no role", *map(_nic, node.nics)])
        lines.append(f'  {_id(node.name)}["{said}"]')
        networks = dict.fromkeys(nic.network for nic in node.nics)
        lines += [f"  {_id(node.name)} --- net_{_id(network)}" for network in networks]
    for cluster in lab.clusters:
        lines.append(f'  cl_{_id(cluster.name)}(["{cluster.fqdn}<br/>{_address(cluster)}"])')
        lines += [f"  cl_{_id(cluster.name)} ==> {_id(m.node)}" for m in cluster.members]
    return "\n".join(lines) + "\n"


def _id(name: str) -> str:
    return name.replace("-", "_")
