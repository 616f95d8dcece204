"""The metrics as Prometheus reads them: its text format, or OpenMetrics where it asks for that."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from kmp_smsd.monitoring.metrics import metrics


class OwnProcess(ProcessCollector):
    """The ``process_*`` metrics, under ProcSubset=pid too, which hides the file that tells when the kernel booted."""

    def _boot_time(self) -> float:
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


_process = OwnProcess(registry=None)  # one for all scrapes: the time of the boot must not tremble


class _Scrape(Collector):
    def __init__(self, snapshot: Mapping[str, Any]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        return chain(metrics(self._snapshot), _process.collect())


def expose(snapshot: Mapping[str, Any], accept: str) -> tuple[str, bytes]:
    """The content type that fits `accept` best (a header's value, may be empty), and the metrics in it."""
    encode, content_type = choose_encoder(accept)
    return content_type, encode(_Scrape(snapshot))
