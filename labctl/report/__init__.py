"""What a run came to, for people: one HTML file, figures as JSON, the lab as a picture."""

from labctl.report.figures import Scenario, scenario_of
from labctl.report.graph import mermaid, svg
from labctl.report.page import as_html, as_json, worst, write_report

__all__ = ["Scenario", "as_html", "as_json", "mermaid", "scenario_of", "svg", "worst", "write_report"]
