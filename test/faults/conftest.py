"""Starts systems for the stories, and prints their table at the end of the run.

`make test` runs the quick stories, with short leases; `python -m test.faults` (COMFY_FAULTS=all) runs all of them in
their long forms, with the product's defaults where FAULTS.md gives figures.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from test.cluster import Cluster
from test.faults.oracle import HEADER, Oracle, Row
from test.scenario.conftest import SHORT

ROWS = pytest.StashKey[list[Row]]()
Start = Callable[..., Oracle]

# The long stories, and the long forms of others, run with COMFY_FAULTS=all.
ALL = os.environ.get("COMFY_FAULTS") == "all"
slow = pytest.mark.skipif(not ALL, reason="takes long: `make faults` runs it")

# Where FAULTS.md counts in leases, the long form has the product's own.
LEASE, SWEEP = (15.0, 1.0) if ALL else (float(SHORT["LEASE_SECONDS"]), 1.0)
USUAL: Mapping[str, str] = {} if ALL else SHORT


def bar(seconds: float) -> float:
    """What FAULTS.md allows; beside other tests on a busy machine 3 s more."""
    return seconds if ALL else seconds + 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A story in its long form may take minutes."""
    for item in items:
        if "faults" in item.path.parts and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300 if ALL else 60))


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a system under the eyes of an oracle. `own` are settings of single processes; `usual` those of all."""
    oracles: list[Oracle] = []
    with ExitStack() as stack:

        def begin(
            *,
            agents: int = 2,
            usual: Mapping[str, str] = SHORT,
            settings: Mapping[str, str] | None = None,
            own: Mapping[str, Mapping[str, str]] | None = None,
            cluster: Cluster | None = None,
        ) -> Oracle:
            system = cluster or Cluster(tmp_path, agents=agents, settings={**usual, **(settings or {})})
            for name, environment in (own or {}).items():
                system.processes[name].environment.update(environment)
            oracles.append(Oracle(stack.enter_context(system)))
            return oracles[-1]

        yield begin
    rows = request.config.stash.setdefault(ROWS, [])
    rows += [oracle.row for oracle in oracles if oracle.row]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if rows := terminalreporter.config.stash.get(ROWS, []):
        terminalreporter.section("faults")
        terminalreporter.write_line(HEADER)
        for row in sorted(rows, key=lambda row: (row.name[0] != "F", len(row.name), row.name)):
            terminalreporter.write_line(row.line())
