"""Series of the two pages by name, as terms of PromQL.

A page of :func:`balanceroute.prometheus.render` puts `worker_` before the name of what it says of each
worker; the page of an engine with a plug-in (:mod:`balanceroute.engines.series`) does not. A term that asks
for either works on both, and an instance has one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

# What a plug-in calls its series, whatever prefix others have.
PLUG_IN = "balanceroute"
# Names that the router has of the cluster and a plug-in of each worker.
_OF_BOTH = frozenset(("running_requests",))


@dataclass(frozen=True)
class Names:
    """`prefix` is the one that `render` was given; `matchers` narrow every selector, as in `job="decode"`."""

    prefix: str = PLUG_IN
    matchers: tuple[str, ...] = ()

    def _selector(self, name: str, *more: str) -> str:
        inner = ",".join((*self.matchers, *more))
        return f"{name}{{{inner}}}" if inner else name

    def router(self, name: str, *matchers: str) -> str:
        """A series of a router's page, of the whole cluster or of a kind that only this page has."""
        if name in _OF_BOTH:
            matchers = (*matchers, 'worker=""')
        return self._selector(f"{self.prefix}_{name}", *matchers)

    def plug_in(self, name: str, *matchers: str) -> str:
        """A series of an engine's page, of all its front ends."""
        if name in _OF_BOTH:
            matchers = (*matchers, 'worker!=""')
        return self._selector(f"{PLUG_IN}_{name}", *matchers)

    def worker(self, name: str) -> str:
        """What either page says of each worker."""
        return f"({self.router(f'worker_{name}')} or {self.plug_in(name)})"

    def either(self, name: str) -> str:
        """What both pages have of the whole under one name."""
        ours, theirs = self.router(name), self.plug_in(name)
        return ours if ours == theirs else f"({ours} or {theirs})"

    def waiting(self) -> str:
        """Requests that wait, all together."""
        return (
            f"(sum without (reason) ({self.router('waiting_requests')}) or {self.plug_in('held_requests')})"
        )

    def envelope(self) -> str:
        """The greatest load. A plug-in shows none, and its page no weights."""
        theirs = f"max without (worker) ({self.plug_in('load_tokens')})"
        return f"({self.router('envelope_tokens')} or {theirs})"

    def imbalance(self) -> str:
        """Workers times the envelope minus the sum of loads."""
        theirs = f"sum without (worker) ({self.plug_in('margin_tokens')})"
        return f"({self.router('imbalance_tokens')} or {theirs})"

    def lost_share(self) -> str:
        """The part of all workers' time that goes by in waiting for the fullest one, 0 to 1; none where
        nobody has a load.
        """
        return (
            f"{self.imbalance()}\n"
            f"/ (({self.envelope()} > 0) * count without (worker) ({self.worker('load_tokens')}))"
        )

    def busy_share(self) -> str:
        """Running requests by slots, 0 to 1."""
        running, slots = self.worker("running_requests"), self.worker("slots")
        return f"sum without (worker) ({running})\n/ (sum without (worker) ({slots}) > 0)"

    def quantile(self, q: float, histogram: str, by: str, over: str) -> str:
        """Of a router's histogram, over the time `over`."""
        rate = f"rate({self.router(f'{histogram}_bucket')}[{over}])"
        return f"histogram_quantile({q}, sum by (le, {by}) ({rate}))"
