"""A segment's metrics, read by Prometheus's own parser; and the dashboard that names them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as families

from hypern_realtime_shm import ChannelManager, PresenceTracker, RealtimeBroadcast, Segment
from hypern_realtime_shm.inspect import Inspector
from hypern_realtime_shm.metrics import Collector, registry
from hypern_realtime_shm.testing import unlink_segment

OPERATIONS = Path(__file__).parents[1] / "docs" / "operations.md"
DASHBOARD = Path(__file__).parents[1] / "examples" / "grafana" / "hypern_realtime.json"


def samples(text: str) -> dict[tuple[str, str], float]:
    """(name, labels but the segment's) → value."""
    return {
        (sample.name, ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()) if key != "segment")): (
            sample.value
        )
        for family in families(text)
        for sample in family.samples
    }


def scrape(segment: str | Segment, top_channels: int = 0) -> dict[tuple[str, str], float]:
    return samples(generate_latest(registry(segment, top_channels=top_channels)).decode())


def test_the_values_are_those_of_the_segment(segment: Segment) -> None:
    manager, cast = ChannelManager(segment=segment), RealtimeBroadcast(segment=segment)
    manager.create_channel("a", buffer_size=16)
    cast.create("news")
    slow = manager.subscribe("a", "slow")
    PresenceTracker(segment=segment).track("a", "ada")
    for number in range(40):
        manager.publish("a", f"message {number}")
    before = scrape(segment)
    assert before["hypern_realtime_up", ""] == 1
    assert before["hypern_realtime_messages_published_total", ""] == 40
    assert before["hypern_realtime_channels", "kind=channel"] == 1
    assert before["hypern_realtime_channels", "kind=broadcast"] == 1
    assert before["hypern_realtime_members", ""] == 1
    assert before["hypern_realtime_handles", ""] == 1
    assert before["hypern_realtime_max_lag_messages", "kind=channel"] == 40
    assert before["hypern_realtime_lagging_channels", "kind=channel"] == 1
    assert before["hypern_realtime_retained_messages", "kind=channel"] == 16
    assert sum(value for (name, _), value in before.items() if name == "hypern_realtime_processes") == 1
    memory = {labels: value for (name, labels), value in before.items() if name == "hypern_realtime_memory_bytes"}
    overview = Inspector(str(segment.name)).overview()
    assert sum(memory.values()) == overview["memory"]["total"] + overview["memory"]["fixed"]
    assert before["hypern_realtime_segment_bytes", ""] == segment.size

    assert len(slow.drain()) == 16
    assert slow.try_recv() is None  # it shows where it is when it finds nothing
    after = scrape(segment)
    assert after["hypern_realtime_messages_missed_total", ""] == 24
    assert after["hypern_realtime_max_lag_messages", "kind=channel"] == 0
    assert after["hypern_realtime_processes_attached_total", ""] == 1, "a scrape takes no place"


def test_names_follow_the_conventions_and_labels_are_few(segment: Segment) -> None:
    manager = ChannelManager(segment=segment)
    for number in range(300):
        manager.create_channel(f"channel {number}", buffer_size=16)
    text = generate_latest(registry(segment)).decode()
    assert "channel 7" not in text, "a channel's name must not become a label unless asked for"
    found = list(families(text))
    assert len(found) > 30
    for family in found:
        assert family.name.startswith("hypern_realtime_")
        assert family.documentation
        assert family.type in ("counter", "gauge", "info") or family.name.endswith("_info")
        for sample in family.samples:
            assert sample.labels["segment"] == segment.name
            assert sample.name.endswith("_total") == (family.type == "counter")
    assert len(samples(text)) < 100
    assert list(openmetrics(generate_openmetrics(registry(segment)).decode()))


def test_channels_by_name_only_as_many_as_asked_for_whatever_they_are_called(segment: Segment) -> None:
    manager = ChannelManager(segment=segment)
    hostile = 'a"\\\n{}<script>\u202e'
    for number, name in enumerate(["quiet", hostile, "loud"]):
        manager.create_channel(name)
        for _ in range(number * 5):
            manager.publish(name, "x")
    text = generate_latest(registry(segment, top_channels=2)).decode()
    published = {
        sample.labels["channel"]: sample.value
        for family in families(text)
        for sample in family.samples
        if sample.name == "hypern_realtime_channel_published_total"
    }
    assert published == {"loud": 10, hostile: 5}


def test_a_collector_outlives_segments(name: str) -> None:
    scraped = CollectorRegistry()
    scraped.register(Collector(name))

    def now() -> dict[tuple[str, str], float]:
        return samples(generate_latest(scraped).decode())

    assert now() == {("hypern_realtime_up", ""): 0}
    for published in (3, 5):
        with Segment.open(name, size="4MiB") as segment:
            manager = ChannelManager(segment=segment)
            manager.create_channel("a")
            for _ in range(published):
                manager.publish("a", "x")
            assert now()["hypern_realtime_messages_published_total", ""] == published
            unlink_segment(name)
            seen = now()  # its name is gone; who is attached goes on
            assert seen["hypern_realtime_segment_current", ""] == 0
            assert seen["hypern_realtime_messages_published_total", ""] == published
        assert now() == {("hypern_realtime_up", ""): 0}


def test_bad_arguments_are_named(name: str) -> None:
    with pytest.raises(ValueError, match="top_channels is -1; it must be between 0 and"):
        Collector(name, top_channels=-1)
    with Segment.private() as private, pytest.raises(ValueError, match=r"segment is .*; it must be one with a name"):
        Collector(private)


def names(segment: Segment) -> set[str]:
    """Of all metrics. Families, not samples: what cannot be told just now has a name all the same."""
    found = families(generate_latest(registry(segment, top_channels=1)).decode())
    return {family.name + ("_total" if family.type == "counter" else "") for family in found}


def test_the_table_has_every_metric_and_no_other(segment: Segment) -> None:
    page = OPERATIONS.read_text().partition("## Metrics")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {f"hypern_realtime_{name}" for row in rows for name in re.findall(r"`(\w+)`", row)} == names(segment)
    alerts = re.findall(r"hypern_realtime_\w+", page.partition("```yaml")[2])
    assert len(alerts) > 5
    assert set(alerts) <= names(segment)


def test_the_dashboard_names_metrics_that_exist(segment: Segment) -> None:
    expressions = re.findall(r'"(?:expr|query)": "(.*hypern.*)"', DASHBOARD.read_text())
    named = {name for expression in expressions for name in re.findall(r"hypern_realtime_\w+", expression)}
    there = names(segment)
    assert len(named) > 20
    assert named <= there, f"no such metrics: {sorted(named - there)}"
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["targets"] and all(target["expr"] for target in panel["targets"]) for panel in panels)
