"""Tar archives made byte by byte: the hostile, the damaged and the merely odd."""

import io
from typing import NamedTuple

from imgbuild.layer import pax, ustar
from imgbuild.layer.entry import Entry
from imgbuild.layer.tarwrite import TarWriter

END = bytes(1024)


class Archive(NamedTuple):
    """`words` are in the message of the error that reading or unpacking must raise."""

    name: str
    data: bytes
    words: str


def member(
    name: bytes,
    flag: bytes = b"0",
    content: bytes = b"",
    *,
    link: bytes = b"",
    mode: int | None = None,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    rdev: tuple[int, int] = (0, 0),
    records: dict[bytes, bytes] | None = None,
    **fields: bytes,
) -> bytes:
    """Return one member as it says; `fields` replaces raw header fields (size=b"-0000000001")."""
    if mode is None:
        mode = 0o755 if flag == b"5" else 0o644
    head = bytearray(
        ustar.pack(name[:100], mode, uid, gid, len(content), mtime, flag, link[:100], rdev)
    )
    places = {"mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "magic": 257}
    for field, value in fields.items():
        head[places[field] : places[field] + len(value)] = value
    before = pax.pack(records, name) if records else b""
    return before + resummed(bytes(head)) + content + bytes(-len(content) % 512)


def resummed(head: bytes) -> bytes:
    """Return a header with the right checksum."""
    total = sum(head[:148]) + 8 * 0x20 + sum(head[156:])
    return head[:148] + b"%06o\0 " % total + head[156:]


def archive(*members: bytes) -> bytes:
    return b"".join(members) + END


def long_name(name: bytes, flag: bytes = b"L") -> bytes:
    """Return GNU's header for a name that does not fit."""
    return member(b"././@LongLink", flag, name + b"\0", magic=b"ustar  \0")


def layer(*entries: tuple[Entry, bytes]) -> bytes:
    """Return the tar that our writer makes of entries in the right order."""
    out = io.BytesIO()
    writer = TarWriter(out.write)
    for entry, content in entries:
        writer.add(entry, io.BytesIO(content) if entry.type == "file" else None)
    writer.finish()
    return out.getvalue()


def _pax(body: bytes, flag: bytes = b"x") -> bytes:
    return member(b"PaxHeaders.0/x", flag, body)


_FILE = member(b"file", content=b"data")

# What the reader refuses, whoever reads.
REFUSED = [
    Archive("parent", archive(member(b"../x")), "leads out"),
    Archive("parent-in-the-middle", archive(member(b"a/../../x")), "leads out"),
    Archive("parent-alone", archive(member(b"..", b"5")), "leads out"),
    Archive("parent-absolute", archive(member(b"/../x")), "leads out"),
    Archive("parent-by-pax", archive(member(b"x", records={b"path": b"a/../../x"})), "leads out"),
    Archive("parent-by-gnu", archive(long_name(b"../" * 40 + b"x"), member(b"x")), "leads out"),
    Archive("hardlink-parent", archive(member(b"x", b"1", link=b"../../etc/passwd")), "leads out"),
    Archive("hardlink-to-nothing", archive(member(b"x", b"1")), "illegal name"),
    Archive("hardlink-to-root", archive(member(b"x", b"1", link=b"/")), "links"),
    Archive("hardlink-to-whiteout", archive(member(b"x", b"1", link=b".wh.a")), "links"),
    Archive("symlink-to-nothing", archive(member(b"x", b"2")), "illegal symlink"),
    Archive("empty-name", archive(member(b"")), "illegal name"),
    Archive("nul-in-name", archive(member(b"x", records={b"path": b"a\0b"})), "illegal name"),
    Archive("nul-in-link", archive(member(b"x", b"2", records={b"linkpath": b"a\0b"})), "symlink"),
    Archive("name-too-long", archive(member(b"x", records={b"path": b"a/" * 2049})), "illegal"),
    Archive("component-too-long", archive(member(b"x", records={b"path": b"a" * 256})), "too long"),
    Archive("too-deep", archive(member(b"x", records={b"path": b"a/" * 1100})), "too deep"),
    Archive("root-is-a-file", archive(member(b"./", b"0"), member(b".")), "root directory"),
    Archive("root-is-a-link", archive(member(b"./", b"2", link=b"/etc")), "root directory"),
    Archive("whiteout-of-nothing", archive(member(b"a/.wh.")), "illegal whiteout"),
    Archive("whiteout-of-itself", archive(member(b"a/.wh..")), "illegal whiteout"),
    Archive("whiteout-of-parent", archive(member(b"a/.wh...")), "illegal whiteout"),
    Archive("below-a-whiteout", archive(member(b".wh.a/b")), "illegal whiteout"),
    Archive("below-an-opaque-marker", archive(member(b".wh.a/.wh..wh..opq")), "illegal whiteout"),
    Archive("negative-size", archive(member(b"x", size=b"-0000000010\0")), "impossible size"),
    Archive("negative-base-256", archive(member(b"x", size=b"\xff" * 12)), "impossible size"),
    Archive("huge-base-256", archive(member(b"x", size=b"\x80\xff" + b"\xff" * 10)), "impossible"),
    Archive("size-is-no-number", archive(member(b"x", size=b"12345abc901\0")), "impossible size"),
    Archive("size-with-underscore", archive(member(b"x", size=b"0000000_1\0\0\0")), "impossible"),
    Archive("size-not-octal", archive(member(b"x", size=b"00000000089\0")), "impossible size"),
    Archive("size-beyond-limit", archive(member(b"x", records={b"size": b"9" * 15})), "bytes"),
    Archive("size-too-many-digits", archive(member(b"x", records={b"size": b"9" * 40})), "size"),
    Archive("pax-negative-size", archive(member(b"x", records={b"size": b"-1"})), "size"),
    Archive("pax-negative-uid", archive(member(b"x", records={b"uid": b"-1"})), "uid"),
    Archive("pax-uid-no-change", archive(member(b"x", records={b"uid": b"4294967295"})), "belongs"),
    Archive("pax-bad-mtime", archive(member(b"x", records={b"mtime": b"1e9"})), "mtime"),
    Archive("pax-huge-mtime", archive(member(b"x", records={b"mtime": b"9" * 17})), "mtime"),
    Archive("pax-length-too-long", archive(_pax(b"99 path=x\n"), _FILE), "malformed PAX"),
    Archive("pax-length-zero", archive(_pax(b"0 path=x\n"), _FILE), "malformed PAX"),
    Archive("pax-no-length", archive(_pax(b"path=x\n"), _FILE), "malformed PAX"),
    Archive("pax-no-equals", archive(_pax(b"9 pathxx\n"), _FILE), "malformed PAX"),
    Archive("pax-no-key", archive(_pax(b"6 =xx\n"), _FILE), "malformed PAX"),
    Archive("pax-no-newline", archive(_pax(b"9 path=xx"), _FILE), "malformed PAX"),
    Archive("pax-huge", archive(_pax(b"x" * ((1 << 20) + 1)), _FILE), "extension header of"),
    Archive("pax-cut", _pax(b"")[:124] + b"x", "truncated"),
    Archive("gnu-name-huge", archive(long_name(b"a" * (1 << 20)), _FILE), "extension header of"),
    Archive("gnu-sparse", archive(member(b"x", b"S")), "sparse"),
    Archive("pax-sparse", archive(member(b"x", records={b"GNU.sparse.major": b"1"})), "sparse"),
    Archive("unknown-type", archive(member(b"x", b"M")), "unknown type"),
    Archive("bad-checksum", archive(b"X" + _FILE[1:]), "checksum"),
    Archive("not-a-tar", b"<!doctype html>" + b" " * 2000, "header"),
    Archive("pax-and-nothing", _pax(b"10 path=x\n"), "truncated"),
    Archive("half-a-header", _FILE[:300], "truncated"),
    Archive("half-a-file", member(b"x", content=bytes(5000))[:2000], "truncated"),
    Archive("no-padding", member(b"x", content=b"abc")[:515], "truncated"),
    Archive("goes-on-after-the-end", _FILE + bytes(512) + _FILE + END, "goes on"),
]
REFUSED += [
    Archive(
        "pax-global-without-end",
        archive(*(_pax(pax._record(b"k%d" % i, b"v" * 900_000), b"g") for i in range(2)), _FILE),
        "without end",
    )
]

# Legal to read, but unpacking must refuse.
REFUSED_WHEN_UNPACKED = [
    Archive("hardlink-to-missing", archive(member(b"x", b"1", link=b"etc/passwd")), "no file"),
    Archive("hardlink-to-itself", archive(member(b"x", b"1", link=b"./x")), "to itself"),
    Archive(
        "hardlink-to-directory",
        archive(member(b"d/", b"5"), member(b"x", b"1", link=b"d")),
        "a directory",
    ),
    Archive(
        "hardlink-to-removed",
        archive(member(b".wh.a"), member(b"x", b"1", link=b"a")),
        "was removed",
    ),
    Archive(
        "hardlink-through-link",
        archive(member(b"l", b"2", link=b"/etc"), member(b"x", b"1", link=b"l/passwd")),
        "no file",
    ),
    Archive("below-a-file", archive(member(b"a", content=b"x"), member(b"a/b")), "not a directory"),
    Archive(
        "link-loop",
        archive(member(b"a", b"2", link=b"b"), member(b"b", b"2", link=b"a"), member(b"a/x")),
        "cannot unpack",
    ),
]


def escapes(outside: bytes) -> list[tuple[str, bytes]]:
    """Return archives that unpack, but must leave the directory `outside` as it is."""
    up = b"../" * 30 + outside[1:]
    return [
        ("absolute-name", archive(member(outside + b"/x", content=b"!"))),
        *(
            (
                f"{how}-{'absolute' if target == outside else 'relative'}",
                archive(member(b"link", b"2", link=target), *rest),
            )
            for target in (outside, up)
            for how, rest in (
                ("file-below-link", [member(b"link/x", content=b"!")]),
                ("dir-below-link", [member(b"link/new/", b"5"), member(b"link/new/x")]),
                ("whiteout-below-link", [member(b"link/.wh.kept")]),
                ("opaque-below-link", [member(b"link/.wh..wh..opq")]),
                ("dir-over-link", [member(b"link/", b"5", mode=0o777)]),
                ("file-over-link", [member(b"link", content=b"!")]),
                ("link-below-link", [member(b"link/l", b"2", link=b"/etc")]),
                ("fifo-below-link", [member(b"link/f", b"6")]),
            )
        ),
        (
            "write-through-file-link",
            archive(member(b"l", b"2", link=outside + b"/kept"), member(b"l", content=b"!")),
        ),
        (
            "link-replaces-open-directory",
            archive(
                member(b"d/", b"5"),
                member(b"d/a"),
                member(b"d", b"2", link=outside),
                member(b"d/b", content=b"!"),
            ),
        ),
        (
            "hardlink-to-link-then-write",
            archive(
                member(b"l", b"2", link=outside + b"/kept"),
                member(b"h", b"1", link=b"l"),
                member(b"h", content=b"!"),
            ),
        ),
    ]
