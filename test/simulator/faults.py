"""What can be made to go wrong, now or from the start. POST /simulator/faults merges its JSON object into the current
`Faults`.

A fault with a count hits that many times and is then used up; -1 means always. `crash: "now"`, `drop_websockets` and
`refuse_seconds` act once, at the moment they are set. `{}` changes nothing; `{"reset": true}` clears everything
first. Routes under /simulator always answer, whatever is broken.
"""

from typing import Literal

import msgspec


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """The faults in force. Defaults mean healthy."""

    crash: Literal["", "now", "start", "steps"] = (
        ""  # the process ends (exit code 137) now, when a prompt starts, or after steps
    )
    crash_after_steps: int = 1  # for crash = "steps": progress steps of the next prompt before it happens
    crash_count: int = 1  # prompts still to be hit by crash = "start" or "steps" in this process (a restart clears all)
    hang: bool = False  # runs stop making progress and cannot be interrupted; HTTP still answers
    hang_http: bool = False  # no HTTP request gets an answer
    silent_websocket: bool = False  # sockets stay open, nothing is sent
    drop_websockets: bool = False  # every socket's TCP connection is cut once
    refuse_websockets: bool = False  # GET /ws answers 503
    slow: float = 1.0  # multiplies all times
    out_of_memory: int = (
        0  # prompts that fail with PyTorch's out-of-memory error at their first sampler, else first node
    )
    wrong_prompt_answer: Literal["", "500", "garbage", "lost"] = (
        ""  # POST /prompt; lost = accepted and run, but answered 500
    )
    wrong_answer: Literal["", "500", "garbage"] = ""  # every route
    refuse_seconds: float = 0.0  # connections are cut and new ones refused for this long
    lose_output: int = 0  # saved files that vanish right after the node named them
    keep_cache: bool = False  # the cache evicts nothing (as --cache-lru): identical graphs always name their old files
    leak_gib: float = 0.0  # memory of the machine that is taken besides; POST /free does not give it back
    history_delay: float = 0.0  # seconds between execution_success and the history entry


class FaultError(ValueError):
    """The JSON given to /simulator/faults does not describe faults."""


def merge(current: Faults, change: object) -> Faults:
    """`current` with the fields of the JSON object `change`; raises FaultError on unknown names and wrong types."""
    if not isinstance(change, dict):
        raise FaultError("expected a JSON object")
    fields = dict(change)
    base = Faults() if fields.pop("reset", False) else current
    unknown = set(fields) - set(Faults.__struct_fields__)
    if unknown:
        raise FaultError(f"unknown faults: {', '.join(sorted(unknown))}; known: {', '.join(Faults.__struct_fields__)}")
    try:
        return msgspec.convert({**msgspec.structs.asdict(base), **fields}, Faults)
    except msgspec.ValidationError as error:
        raise FaultError(str(error)) from error
