"""One whole system per story: real processes, simulated instances, short leases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from test.cluster import Cluster

SHORT = {
    "LEASE_SECONDS": "5",
    "GRACE_SECONDS": "2",
    "HEARTBEAT_SECONDS": "1",
    "HEARTBEAT_TTL": "3",
    "AVOID_SECONDS": "5",
}


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Cluster]:
    """Two agents on two simulated instances."""
    with Cluster(tmp_path, settings=SHORT) as cluster:
        yield cluster
