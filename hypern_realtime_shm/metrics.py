"""A segment as Prometheus metrics: a collector for ``prometheus_client``, and apps to mount. Extra: ``prometheus``.

Everything is read from the segment, read-only: so whichever worker of a server is scraped, the answer is of the whole,
and none of ``prometheus_client``'s files for several processes is needed.

>>> from prometheus_client import REGISTRY  # doctest: +SKIP
>>> REGISTRY.register(Collector("chat"))  # beside one's own metrics  # doctest: +SKIP
>>> app.mount("/metrics", asgi_app("chat"))  # or alone  # doctest: +SKIP

Names begin with ``hypern_realtime_``. ``…_total`` only grows in a segment's life and begins at 0 with the next, as a
counter does. The labels' values are few and known beforehand, but for the channels' names that ``top_channels`` brings.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, make_asgi_app, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as _Collector

from . import __version__, _engine
from ._arguments import wrong_type
from ._sight import Sight
from .errors import SegmentError
from .inspect import ChannelRow, Overview, Processes
from .segment import Segment

PREFIX = "hypern_realtime_"
KINDS = ("channel", "broadcast")
STATES = ("running", "sleeping", "stopped", "alive", "leaving", "dead", "settled")
USES = ("messages", "records", "pages", "continued", "held", "free", "fixed")


class _Families:
    """Metrics of one segment: each has the label ``segment`` first."""

    def __init__(self, segment: str) -> None:
        self._segment = segment

    def gauge(self, name: str, help: str, value: float | None) -> Iterator[Metric]:
        """One value; none: it cannot be told."""
        family = GaugeMetricFamily(PREFIX + name, help, labels=["segment"])
        if value is not None:
            family.add_metric([self._segment], value)
        yield family

    def counter(self, name: str, help: str, value: float) -> Iterator[Metric]:
        """One sum that only grows."""
        family = CounterMetricFamily(PREFIX + name, help, labels=["segment"])
        family.add_metric([self._segment], value)
        yield family

    def gauges(self, name: str, help: str, label: str, values: dict[str, float]) -> Iterator[Metric]:
        """One value for each of a label."""
        family = GaugeMetricFamily(PREFIX + name, help, labels=["segment", label])
        for each, value in values.items():
            family.add_metric([self._segment, each], value)
        yield family

    def info(self, name: str, help: str, value: dict[str, str]) -> Iterator[Metric]:
        """Words about it."""
        family = InfoMetricFamily(PREFIX + name, help, labels=["segment"])
        family.add_metric([self._segment], value)
        yield family

    def of_channels(self, rows: list[ChannelRow]) -> Iterator[Metric]:
        """The channels one by one."""
        labels = ["segment", "namespace", "channel", "kind"]
        published = CounterMetricFamily(PREFIX + "channel_published", "Messages published on a channel.", labels=labels)
        missed = CounterMetricFamily(PREFIX + "channel_missed", "Messages missed on a channel.", labels=labels)
        handles = GaugeMetricFamily(PREFIX + "channel_handles", "Open handles on a channel.", labels=labels)
        lag = GaugeMetricFamily(
            PREFIX + "channel_lag_messages", "Messages a channel's slowest handle is behind.", labels=labels
        )
        for row in rows:
            values = [self._segment, row["namespace"] or "", row["name"] or "", row["kind"]]
            published.add_metric(values, row["published"])
            missed.add_metric(values, row["missed"])
            handles.add_metric(values, row["handles"])
            if row["max_lag"] is not None:
                lag.add_metric(values, row["max_lag"])
        yield from (published, missed, handles, lag)


class Collector(_Collector):
    """Metrics of a segment, for any ``prometheus_client`` registry. It may be registered before there is a segment.

    Args:
        segment: a segment, or the name of one. The name counts: what has it at the scrape is read.
        top_channels: how many channels get metrics of their own, those with most messages first. Their names become
            values of a label, and a channel that drops out of the first so many ends its series: 0 by default.

    Raises:
        ValueError: ``top_channels`` is negative, or the segment has no name and so cannot be looked at.
    """

    def __init__(self, segment: str | Segment, *, top_channels: int = 0) -> None:
        top_channels = _engine.whole("top_channels", top_channels)
        if not isinstance(segment, (str, Segment)):
            raise wrong_type("segment", segment, "a str or a Segment")
        name = segment if isinstance(segment, str) else segment.name
        if not name:
            raise ValueError(f"segment is {segment!r}; it must be one with a name: only those can be looked at")
        self._sight = Sight(name)
        self._top = top_channels

    def collect(self) -> Iterator[Metric]:
        """One look at the segment; where there is none, ``hypern_realtime_up`` is 0 and all there is."""
        made = _Families(self._sight.name)
        began = time.perf_counter()
        try:
            inspector = self._sight.inspector()
            overview, channels, processes = inspector.overview(), inspector.channels(), inspector.processes()
        except SegmentError:
            yield from made.gauge("up", "1: the segment is there and can be read.", 0)
            return
        yield from made.gauge("up", "1: the segment is there and can be read.", 1)
        problems = {*overview["problems"], *channels["problems"], *processes["problems"]}
        yield from made.gauge("problems", "Things in the segment that could not be read.", len(problems))
        yield from _sizes(made, overview)
        yield from _traffic(made, overview)
        yield from _of_kinds(made, overview, channels["channels"])
        yield from _of_processes(made, overview, processes)
        if self._top:
            named = [row for row in channels["channels"] if row["state"] == "open" and row["name"] is not None]
            named.sort(key=lambda row: (-row["published"], row["namespace"] or "", row["name"] or "", row["kind"]))
            yield from made.of_channels(named[: self._top])
        yield from made.gauge("look_seconds", "How long this look took.", time.perf_counter() - began)


def _sizes(made: _Families, seen: Overview) -> Iterator[Metric]:
    yield from made.info(
        "segment",
        "What the segment is.",
        {"version": __version__, "layout": str(seen["layout"]), "identity": seen["identity"]},
    )
    yield from made.gauge("segment_current", "0: the segment's name was removed.", int(seen["current"]))
    yield from made.gauge("segment_bytes", "The segment's size.", seen["size"])
    yield from made.gauge("segment_created_timestamp_seconds", "When it was made.", seen["created_at"])
    memory: dict[str, Any] = dict(seen["memory"])
    yield from made.gauges(
        "memory_bytes", "The segment's memory by what it is used for.", "use", {use: memory[use] for use in USES}
    )
    parts = seen["capacities"]
    used = {part["what"].replace(" ", "_"): float(part["used"]) for part in parts}
    yield from made.gauges("capacity_used", "How many of a thing of which there is a fixed number.", "part", used)
    limits = {part["what"].replace(" ", "_"): float(part["capacity"]) for part in parts}
    yield from made.gauges("capacity_limit", "How many of it there can be.", "part", limits)


def _traffic(made: _Families, seen: Overview) -> Iterator[Metric]:
    totals, namespaces = seen["totals"], seen["namespaces"]
    yield from made.counter("messages_published", "Messages published.", totals["published_total"])
    yield from made.counter(
        "messages_missed", "Messages missed by handles, broadcasts nobody heard.", totals["missed_total"]
    )
    yield from made.counter(
        "messages_evicted", "Messages given up early because memory was full.", totals["evicted_total"]
    )
    yield from made.gauge("handles", "Open handles.", totals["handles"])
    yield from made.gauge("subscribers", "Registered subscribers.", totals["subscribers"])
    yield from made.gauge("members", "Members present, over all channels.", totals["members"])
    yield from made.gauge("clients", "Clients with a heartbeat.", totals["clients"])
    yield from made.gauge("topics", "Subscriptions to topic patterns.", totals["topics"])
    yield from made.counter("heartbeat_pings", "Pings sent.", sum(each["pings"] for each in namespaces))
    yield from made.counter("heartbeat_pongs", "Pongs received.", sum(each["pongs"] for each in namespaces))
    yield from made.counter("heartbeat_timeouts", "Heartbeats timed out.", sum(each["timeouts"] for each in namespaces))


def _of_kinds(made: _Families, seen: Overview, rows: list[ChannelRow]) -> Iterator[Metric]:
    totals = seen["totals"]
    yield from made.gauges(
        "channels", "Channels there are.", "kind", {"channel": totals["channels"], "broadcast": totals["broadcasts"]}
    )
    yield from made.gauge("retired_channels", "Removed channels that open handles still drain.", totals["retired"])
    retained: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    lag: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    behind: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    for row in rows:
        kind, slowest = row["kind"], row["max_lag"] or 0
        retained[kind] += row["retained"]
        lag[kind] = max(lag[kind], slowest)
        behind[kind] += slowest * 2 > row["buffer_size"]
    yield from made.gauges("retained_messages", "Messages kept for who comes late.", "kind", retained)
    yield from made.gauges("max_lag_messages", "Messages the slowest handle of all is behind.", "kind", lag)
    yield from made.gauges("lagging_channels", "Channels with a handle more than half a buffer behind.", "kind", behind)


def _of_processes(made: _Families, seen: Overview, processes: Processes) -> Iterator[Metric]:
    totals, rows = seen["totals"], processes["processes"]
    states: Counter[str] = Counter(row["state"] for row in rows)
    yield from made.gauges(
        "processes", "Processes attached, by state.", "state", {state: states[state] for state in STATES}
    )
    asleep = sum(row["waiting"] == "asleep" for row in rows)
    yield from made.gauge("processes_asleep", "Processes that wait for messages.", asleep)
    yield from made.counter("processes_attached", "Processes that have attached.", totals["attached_total"])
    yield from made.counter("processes_reaped", "Dead processes that were settled.", totals["reaped_total"])
    yield from made.gauge(
        "keeper_beat_age_seconds", "Since the thread that settles the dead was last at work.",
        seen["keeper"]["beat_age_seconds"],
    )  # fmt: skip
    yield from made.gauge("ownerless_members", "Members whose processes left in order.", processes["ownerless_members"])
    yield from made.gauge(
        "ownerless_clients", "Heartbeat clients whose processes left in order.", processes["ownerless_clients"]
    )


def registry(segment: str | Segment, *, top_channels: int = 0) -> CollectorRegistry:
    """A registry with nothing but a segment's metrics. Arguments and errors: those of ``Collector``."""
    made = CollectorRegistry()
    made.register(Collector(segment, top_channels=top_channels))
    return made


def asgi_app(segment: str | Segment, *, top_channels: int = 0) -> Any:
    """An ASGI application that answers every request with a segment's metrics. Arguments and errors: those of
    ``Collector``. It asks for no password: who may reach it is for the server that mounts it to say."""
    return make_asgi_app(registry(segment, top_channels=top_channels))


def wsgi_app(segment: str | Segment, *, top_channels: int = 0) -> Any:
    """The same as a WSGI application."""
    return make_wsgi_app(registry(segment, top_channels=top_channels))


__all__ = ["Collector", "asgi_app", "registry", "wsgi_app"]
