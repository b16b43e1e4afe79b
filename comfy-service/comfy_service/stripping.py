"""Taking the texts out of a PNG while it streams: the chunks that hold them are dropped, no pixel is touched.

ComfyUI writes the graph (the prompt and the editor's) into tEXt chunks of each picture, into `comf` chunks of animated
ones; EXIF can hold it too. Pure: bytes in, bytes out, in bounded memory. What is no PNG passes as it is.
"""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DROPPED = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"comf"})
HEAD = 8  # bytes of a chunk before its data: length and kind
CHECKSUM = 4


class PngStripper:
    """One file. Feed it the bytes in order; `rest` gives what is held back at the end."""

    def __init__(self) -> None:
        self._held = b""  # bytes that do not tell yet what they are
        self._passing = False  # it is no PNG
        self._begun = False
        self._left = 0  # bytes of the chunk under way
        self._drop = False  # and what becomes of them

    def feed(self, data: bytes) -> bytes:
        """What of the file can go on."""
        if self._passing:
            return data
        data, self._held = self._held + data, b""
        out: list[bytes] = []
        if not self._begun:
            if len(data) < len(SIGNATURE) and SIGNATURE.startswith(data):
                self._held = data
                return b""
            if not data.startswith(SIGNATURE):
                self._passing = True
                return data
            self._begun = True
            out.append(SIGNATURE)
            data = data[len(SIGNATURE) :]
        self._chunks(memoryview(data), out)
        return b"".join(out)

    def rest(self) -> bytes:
        """The end of a file that broke off within the head of a chunk."""
        held, self._held = self._held, b""
        return held

    def _chunks(self, data: memoryview, out: list[bytes]) -> None:
        at = 0
        while at < len(data):
            if not self._left:
                if len(data) - at < HEAD:
                    self._held = bytes(data[at:])
                    return
                head = bytes(data[at : at + HEAD])
                self._left = HEAD + int.from_bytes(head[:4], "big") + CHECKSUM
                self._drop = head[4:] in DROPPED
            part = data[at : at + self._left]
            at += len(part)
            self._left -= len(part)
            if not self._drop:
                out.append(bytes(part))
