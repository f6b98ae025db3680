"""A Grafana board and alert rules for Prometheus, of one description: :mod:`.panels` says what is shown and
:mod:`.rules` what is alerted on, over the series of :func:`balanceroute.prometheus.render` and of the
engines' plug-ins. The package has both as files beside this one, as
`python -m balanceroute.dashboard` prints them.
"""

from __future__ import annotations

from .grafana import text as _board_text
from .rules import Thresholds
from .rules import text as _alerts_text

__all__ = ["ALERTS", "BOARD", "DOCS", "Thresholds", "alerts", "board"]

# Names of the files in this folder.
BOARD = "balanceroute-board.json"
ALERTS = "balanceroute-alerts.yml"
# Where the page with a section for each alert is, of the repository.
DOCS = "docs"


def board(*, prefix: str = "balanceroute") -> str:
    """The board as JSON for Grafana 10.4 and later. `prefix` is what `render` was given."""
    return _board_text(prefix)


def alerts(*, prefix: str = "balanceroute", docs: str = DOCS, thresholds: Thresholds | None = None) -> str:
    """The alert rules as YAML for Prometheus. `docs` is the folder or address of `monitoring.md`, which each
    alert points to.
    """
    return _alerts_text(prefix, docs, thresholds or Thresholds())
