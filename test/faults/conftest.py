"""Starts systems for the stories, and prints their table at the end of the run."""

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
# Until each story is known to be steady, none of them runs with the ordinary tests: `python -m test.faults` runs them.
collect_ignore_glob = [] if os.environ.get("COMFY_FAULTS") else ["test_*.py"]
slow = pytest.mark.skipif(not ALL, reason="takes long: COMFY_FAULTS=all")


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a system under the eyes of an oracle. `own` are settings of single processes."""
    oracles: list[Oracle] = []
    with ExitStack() as stack:

        def begin(
            *,
            agents: int = 2,
            settings: Mapping[str, str] | None = None,
            own: Mapping[str, Mapping[str, str]] | None = None,
            cluster: Cluster | None = None,
        ) -> Oracle:
            system = cluster or Cluster(tmp_path, agents=agents, settings={**SHORT, **(settings or {})})
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
        for row in sorted(rows, key=lambda row: (len(row.name), row.name)):
            terminalreporter.write_line(row.line())
