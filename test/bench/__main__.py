"""`make bench`: every benchmark in turn, each beside a named baseline of the same run. `python -m test.bench queue`
runs one."""

import argparse
import sys
from collections.abc import Callable, Iterable

from test.bench import end_to_end, http, protocol, queue, scheduling

BENCHMARKS: dict[str, Callable[[], Iterable[str]]] = {
    "queue": queue.run,
    "http": http.run,
    "end-to-end": end_to_end.run,
    "scheduling": scheduling.run,
    "protocol": protocol.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m test.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all without")
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    for name in names:
        sys.stdout.write(f"== {name}\n")
        for line in BENCHMARKS[name]():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
