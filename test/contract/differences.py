"""Where the ComfyUI protocol of the balancer differs from a ComfyUI's on purpose: test → why.

The same list in words is in docs/comfyui-protocol.md. A test in DIFFERENCES must fail through the balancer.
"""

_NAMES = "a file's subfolder begins with the task's id, so that the name is valid wherever the file was made"
_CHECKED = "an upload must be a picture, video or audio file: others have been ways into nodes that load anything"
_WORDS = "malformed input is a 400 that says why, never a 500"
_IDS = "as in newer versions a prompt id is a UUID; used again for the same body it is the same call, else refused"
_NUMBERS = "the number is the time of acceptance; it orders the caller's own prompts only as front or not"
_LOGS = "an instance's log is everybody's, so nobody's is passed on"
_SOCKETS = "every socket of a client id is served, and one that does not read is cut: nobody else notices"
_ALONE = "without a client id nobody is told: progress to everybody would tell others' things"
_MANY = "many GPUs: what is cached, and in which order prompts of one caller run, is the agents' business"

DIFFERENCES: dict[str, str] = {}
NOT_OURS: dict[str, str] = {
    "test_a_client_that_stops_reading_blocks_everybody": _SOCKETS,
    "test_the_cache_does_not_look_at_the_disk": "asks the simulator itself to lose a file",
}
REASONS = (_NAMES, _CHECKED, _WORDS, _IDS, _NUMBERS, _LOGS, _SOCKETS, _ALONE, _MANY)
