"""Pinned diff ids: a change here changes every image that anybody builds again.

Only uncompressed tars are pinned: compressed digests may change with the libraries. The other
half is archives that other programs wrote, with what we must find in them.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

from imgbuild.layer.compress import BlobWriter
from imgbuild.layer.decompress import open_uncompressed
from imgbuild.layer.entry import Entry
from imgbuild.layer.tarread import scan
from imgbuild.layer.tarwrite import TarWriter

TESTDATA = Path(__file__).resolve().parents[3] / "testdata"
LAYERS = sorted((TESTDATA / "layers").glob("*.json"))
ARCHIVES = sorted((TESTDATA / "archives").glob("*.tar.gz"))


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def entry_of(fields: dict[str, Any]) -> tuple[Entry, bytes]:
    """Return the entry of a case; "repeat" makes long names and large files short to write."""
    fields = dict(fields)
    path = as_bytes(fields.pop("path")) * fields.pop("repeat_path", 1)
    content = as_bytes(fields.pop("content", "")) * fields.pop("repeat_content", 1)
    xattrs = {k: base64.b64decode(v) for k, v in fields.pop("xattrs", {}).items()}
    fields["linkname"] = as_bytes(fields.get("linkname", ""))
    fields["mode"] = int(fields.pop("mode", "644"), 8)
    if "rdev" in fields:
        fields["rdev"] = tuple(fields["rdev"])
    return Entry(path=path, size=len(content), xattrs=xattrs, **fields), content


@pytest.mark.parametrize("case", LAYERS, ids=lambda path: path.stem)
def test_layers_have_the_diff_ids_they_always_had(
    case: Path, request: pytest.FixtureRequest
) -> None:
    document = json.loads(case.read_text())
    with BlobWriter(io.BytesIO()) as blob:
        writer = TarWriter(blob.write, clamp=document.get("clamp"))
        for fields in document["entries"]:
            entry, content = entry_of(fields)
            writer.add(entry, io.BytesIO(content) if entry.type == "file" else None)
        writer.finish()
        diff_id = blob.finish().diff_id
    if request.config.getoption("--regold"):
        document["diff_id"] = diff_id
        case.write_text(json.dumps(document, indent=1) + "\n")
    assert diff_id == document["diff_id"]


def described(entry: Entry) -> str:
    fields = {
        "type": entry.type,
        "mode": f"{entry.mode:o}",
        "owner": f"{entry.uid}:{entry.gid}",
        "mtime": entry.mtime,
        "size": entry.size or None,
        "link": entry.linkname.decode("utf-8", "surrogateescape") or None,
        "rdev": entry.rdev,
        "xattrs": {k: v.decode("latin-1") for k, v in entry.xattrs.items()} or None,
        "digest": entry.digest and entry.digest[:19],
    }
    shown = {key: value for key, value in fields.items() if value is not None}
    return json.dumps([entry.path.decode("utf-8", "surrogateescape"), shown])


@pytest.mark.parametrize("case", ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def test_archives_of_other_programs(case: Path, request: pytest.FixtureRequest) -> None:
    found: list[Entry] = []
    with case.open("rb") as stream:
        scan(open_uncompressed(stream), found.append)
    listing = "".join(described(entry) + "\n" for entry in found)
    golden = case.with_name(case.name.removesuffix(".tar.gz") + ".txt")
    if request.config.getoption("--regold"):
        golden.write_text(listing)
    assert listing == golden.read_text()


def test_there_are_cases() -> None:
    assert len(LAYERS) >= 5
    assert len(ARCHIVES) >= 5
