"""The smallest MP4 file that is a real one: a single video track whose frames are JPEG images ("motion JPEG").

ComfyUI writes H.264; no encoder for that is at hand here and no test needs one. The container is complete, so type
sniffing, ranges, and programs that know motion JPEG work; browsers show the file as broken.
"""

import struct

_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_TIMESCALE = 1000  # ticks a second


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", len(body) + 8) + kind + body


def _full_box(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", flags), *parts)


def motion_jpeg(frames: list[bytes], size: tuple[int, int], fps: float) -> bytes:
    """An MP4 file of the given JPEG frames, each shown for 1/fps seconds."""
    ticks = max(1, round(_TIMESCALE / fps))
    head = _box(b"ftyp", b"isom", struct.pack(">I", 0x200), b"isomiso2mp41")
    data = _box(b"mdat", *frames)
    offset = len(head) + 8  # the frames lie right behind the header of mdat
    return head + data + _movie(frames, size, ticks, offset)


def _movie(frames: list[bytes], size: tuple[int, int], ticks: int, offset: int) -> bytes:
    duration = ticks * len(frames)
    movie_header = _full_box(
        b"mvhd",
        struct.pack(">IIIIIH10x", 0, 0, _TIMESCALE, duration, 0x10000, 0x100),
        _MATRIX,
        struct.pack(">24xI", 2),
    )
    track_header = _full_box(
        b"tkhd",
        struct.pack(">IIIII8xHHH2x", 0, 0, 1, 0, duration, 0, 0, 0),
        _MATRIX,
        struct.pack(">II", size[0] << 16, size[1] << 16),
        flags=3,
    )
    media = _box(
        b"mdia",
        _full_box(b"mdhd", struct.pack(">IIIIHH", 0, 0, _TIMESCALE, duration, 0x55C4, 0)),
        _full_box(b"hdlr", struct.pack(">I4s12x", 0, b"vide"), b"video\0"),
        _box(
            b"minf",
            _full_box(b"vmhd", struct.pack(">8x"), flags=1),
            _box(b"dinf", _full_box(b"dref", struct.pack(">I", 1), _full_box(b"url ", flags=1))),
            _sample_table(frames, size, ticks, offset),
        ),
    )
    return _box(b"moov", movie_header, _box(b"trak", track_header, media))


def _sample_table(frames: list[bytes], size: tuple[int, int], ticks: int, offset: int) -> bytes:
    entry = _box(
        b"jpeg",
        struct.pack(">6xH16xHHIII", 1, size[0], size[1], 0x480000, 0x480000, 0),
        struct.pack(">H32sHh", 1, b"", 24, -1),
    )
    sizes = struct.pack(f">II{len(frames)}I", 0, len(frames), *map(len, frames))
    return _box(
        b"stbl",
        _full_box(b"stsd", struct.pack(">I", 1), entry),
        _full_box(b"stts", struct.pack(">III", 1, len(frames), ticks)),
        _full_box(b"stsc", struct.pack(">IIII", 1, 1, len(frames), 1)),
        _full_box(b"stsz", sizes),
        _full_box(b"stco", struct.pack(">II", 1, offset)),
    )
