"""Metrics and their text."""

import math
import re

import balanceroute as br
from balanceroute import prometheus

SAMPLE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)$')


def parsed(text):
    """Samples by name and labels; checks the shape of every line."""
    found, kinds, family = {}, {}, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            assert family not in kinds, f"{family} comes twice"
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name == family and kind in ("gauge", "counter", "histogram")
            kinds[name] = kind
        else:
            name, labels, value = SAMPLE.match(line).groups()
            suffixes = ("", "_bucket", "_sum", "_count") if kinds[family] == "histogram" else ("",)
            assert name in [family + suffix for suffix in suffixes]
            assert (name, labels) not in found
            found[name, labels] = float(value)
    return found, kinds


def running_router():
    router = br.Router([br.WorkerConfig(2, kv_capacity_tokens=50_000)] * 2, headroom_steps=10)
    for id in range(6):
        router.enqueue(id, 1_000 + id, now_ms=0)
    router.step(10)
    router.advance()
    router.report(0, running=2, kv_used_tokens=2_002)
    router.finish(router.metrics() and next(id for id in range(6) if router.running_on(id) == 1))
    router.abort(router.waiting()[0][0])
    router.step(2_500)
    return router


def test_metrics_say_what_happened():
    metrics = running_router().metrics()
    assert (metrics.arrived, metrics.admitted_by_step, metrics.finished, metrics.aborted) == (6, 5, 1, 1)
    assert metrics.waiting == 0 and metrics.running == 4 and metrics.now_ms == 2_500 and metrics.step == 1
    assert [rank.running for rank in metrics.ranks] == [2, 2] and metrics.ranks[0].reports.taken == 1
    assert metrics.ranks[0].report_age_ms == 2_490 and metrics.ranks[1].report_age_ms is None
    assert metrics.wait_ms.count == 5 and metrics.wait_ms.sum == 4 * 10 + 2_500
    assert metrics.wait_ms.quantile(0.5) == 15 and metrics.wait_ms.quantile(1.0) == 4_095
    assert metrics.decide_ns.count == 2 and metrics.decide_ns.sum > 0
    assert set(metrics.returned) == {
        "lost_dispatch",
        "worker_silent",
        "worker_forgot",
        "worker_removed",
        "worker_draining",
        "never_fits",
        "expired",
        "recovered",
    }


def test_text_is_what_the_metrics_say():
    metrics = running_router().metrics()
    found, kinds = parsed(prometheus.render(metrics, labels={"frontend": 'a"b\\c'}))
    own = r'frontend="a\"b\\c"'
    assert found["balanceroute_requests_total", own] == 6
    assert found["balanceroute_left_total", own + ',how="finished"'] == 1
    assert found["balanceroute_worker_running_requests", own + ',worker="1"'] == 2
    assert found["balanceroute_worker_report_age_seconds", own + ',worker="0"'] == 2.49
    assert ("balanceroute_worker_report_age_seconds", own + ',worker="1"') not in found
    assert found["balanceroute_imbalance_tokens", own] == metrics.imbalance_tokens
    assert (
        kinds["balanceroute_decide_seconds"] == "histogram"
        and kinds["balanceroute_requests_total"] == "counter"
    )


def test_histograms_are_cumulative_and_end_at_infinity():
    found, kinds = parsed(prometheus.render(running_router().metrics()))
    for family in [name for name, kind in kinds.items() if kind == "histogram"]:
        buckets = [
            (float(re.search('le="([^"]+)"', labels)[1]), value)
            for (name, labels), value in found.items()
            if name == family + "_bucket"
        ]
        bounds, counts = zip(*buckets)
        assert list(bounds) == sorted(bounds) and math.isinf(bounds[-1])
        assert list(counts) == sorted(counts) and counts[-1] == found[family + "_count", None]


def test_an_empty_router_has_text_too():
    text = prometheus.render(br.Router([]).metrics(), prefix="lb")
    found, _ = parsed(text)
    assert found["lb_running_requests", None] == 0 and text.endswith("\n")
