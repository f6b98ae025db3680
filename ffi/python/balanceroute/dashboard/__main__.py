"""`python -m balanceroute.dashboard board|alerts`: prints the Grafana board or the alert rules."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import sys

from . import DOCS, Thresholds, alerts, board


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", text):
        raise argparse.ArgumentTypeError(
            f"expected the beginning of a series's name (letters, digits, _ and :), found {text!r}"
        )
    return text


def _threshold(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in Thresholds.names():
        raise argparse.ArgumentTypeError(f"no threshold {name!r}; there are {', '.join(Thresholds.names())}")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise argparse.ArgumentTypeError(f"{name}: expected a number of 0 or more, found {value!r}")
    return name, number


def _arguments() -> argparse.ArgumentParser:
    known = Thresholds()
    defaults = ", ".join(f"{name}={getattr(known, name):g}" for name in Thresholds.names())
    parser = argparse.ArgumentParser(
        prog="python -m balanceroute.dashboard",
        description="Prints a Grafana board, or alert rules for Prometheus, for the series of a router's "
        "/metrics page (balanceroute.prometheus.render) and of the engines' plug-ins.",
        epilog="example: python -m balanceroute.dashboard board > balanceroute-board.json",
    )
    parser.add_argument("what", choices=("board", "alerts"), help="what to print")
    parser.add_argument(
        "--prefix",
        type=_prefix,
        default="balanceroute",
        help="what a router's series begin with, as render() was told (default: %(default)s)",
    )
    parser.add_argument(
        "--docs",
        default=DOCS,
        help="alerts: folder or address of monitoring.md, for runbook_url (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=_threshold,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"alerts: from where on something is wrong; may be given again (defaults: {defaults})",
    )
    return parser


def main() -> int:
    parser = _arguments()
    asked = parser.parse_args()
    if asked.what == "board":
        if asked.threshold or asked.docs != DOCS:
            parser.error("--docs and --threshold are of alerts, not of the board")
        sys.stdout.write(board(prefix=asked.prefix))
    else:
        thresholds = dataclasses.replace(Thresholds(), **dict(asked.threshold))
        sys.stdout.write(alerts(prefix=asked.prefix, docs=asked.docs, thresholds=thresholds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
