"""Bodies that are, byte for byte, like one before, but for a few nodes.

To read a large graph costs more than all else about a submit, and clients send the same one again and again with
another seed. A *mould* is a body that was read and recognised, cut up at the nodes that changed so far: its holes. A
body that has the pieces of a mould in their places is read without a parser; only what fills the holes is looked at,
as JSON of its own. Where a whole JSON value stands for another one, a parser would find the same as before around it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

LARGEST = 256 * 1024  # bytes of a body that a mould is made of
MOST_HOLES = 16
MOST_MOULDS = 16
MARK = 32  # bytes of a piece that are searched for
FILLER = b"0"

Node = tuple[int, msgspec.Raw]  # number of its kind, as it is stored


class Mould(NamedTuple):
    """One body with holes. There is one piece more than holes, before, between and behind them."""

    sent: tuple[bytes, ...]  # pieces of the body
    stored: tuple[bytes, ...]  # pieces of the graph as it is stored
    kinds: tuple[int, ...]  # of the nodes that fit the holes

    def fill(self, body: bytes, node_of: Callable[[bytes], Node | None]) -> bytes | None:
        """The graph of a body as it is stored; None when the body does not fit. `node_of` tells what a node is, or
        None when it is no JSON or out of the ordinary."""
        last = len(self.kinds)
        if not body.startswith(self.sent[0]) or not body.endswith(self.sent[last]):
            return None
        parts: list[bytes | msgspec.Raw] = [self.stored[0]]
        begin = len(self.sent[0])
        for hole, kind in enumerate(self.kinds, 1):
            piece = self.sent[hole]
            end = len(body) - len(piece) if hole == last else body.find(piece[:MARK], begin)
            if end < begin or not body.startswith(piece, end):
                return None
            node = node_of(body[begin:end])
            if node is None or node[0] != kind:
                return None
            parts += node[1], self.stored[hole]
            begin = end + len(piece)
        return b"".join(parts) if begin == len(body) else None


def cut(
    body: bytes,
    sent: Mapping[str, bytes],
    found: Sequence[Node],
    holes: Collection[int],
    read: Callable[[bytes], Mapping[str, msgspec.Raw] | None],
) -> Mould | None:
    """The mould of a body whose nodes, as they were `sent`, were `found` to be these; `holes` are the indexes of those
    that change.

    None when it is too large, too many change, or `read`, which is the parser, does not see the holes where they are:
    an id that stands twice, say.
    """
    if len(body) > LARGEST or len(holes) > MOST_HOLES:
        return None
    stored = msgspec.json.encode({node_id: raw for node_id, (_, raw) in zip(sent, found, strict=True)})
    pieces = _pieces(body, list(sent.values()), holes)
    stored_pieces = _pieces(stored, [bytes(raw) for _, raw in found], holes)
    if pieces is None or stored_pieces is None:
        return None
    probe = {node_id: FILLER if at in holes else node for at, (node_id, node) in enumerate(sent.items())}
    seen = read(FILLER.join(pieces)) or {}
    if [*probe.items()] != [(node_id, bytes(raw)) for node_id, raw in seen.items()]:
        return None
    return Mould(sent=pieces, stored=stored_pieces, kinds=tuple([found[hole][0] for hole in sorted(holes)]))


def _pieces(text: bytes, parts: Sequence[bytes], holes: Collection[int]) -> tuple[bytes, ...] | None:
    """The text without those of its parts; None when they do not stand in it one after the other."""
    pieces, begin, at = [], 0, 0
    for number, part in enumerate(parts):
        at = text.find(part, at)
        if at < 0:
            return None
        if number in holes:
            pieces.append(text[begin:at])
            begin = at + len(part)
        at += len(part)
    return (*pieces, text[begin:])
