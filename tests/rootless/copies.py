"""Roots that are copies beside overlays: the same commands in both, played by any user."""

import io
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from imgbuild import recorded
from imgbuild.layer.entry import Entry
from imgbuild.oci.descriptor import Layer
from imgbuild.snapshot.workspace import Workspace
from tests.rootless.snapshots import OLD, Shelf


def compare(place: Path, isolation: str, scripts: dict[str, str]) -> dict[str, Any]:
    """Run each script in overlays and in a copied root; tell how layers and roots differ."""
    found = {}
    for folder in ("overlays", "copies"):
        (place / folder).mkdir()
    with ExitStack() as stack:
        overlays = stack.enter_context(Shelf(place / "overlays"))
        copies = stack.enter_context(Shelf(place / "copies", isolation))
        base = overlays.base()
        copies.add(overlays.tars[base.diff_id])
        for name, script in scripts.items():
            expected, _, _ = _layer(overlays, base, script)
            layer, entries, kept = _layer(copies, base, script)
            fresh = _fresh(copies, [base, layer])
            found[name] = {
                "same": layer.diff_id == expected.diff_id,
                "entries": _shown(entries),
                "expected": _entries_of(overlays.tars[expected.diff_id]),
                "kept": _differences(kept, fresh),
                "steady": _is_steady(copies, [base, layer]),
            }
    return found


def _layer(shelf: Shelf, base: Layer, script: str) -> tuple[Layer, list[Entry], dict[str, Any]]:
    with shelf.roots.workspace([base]) as workspace:
        shelf.run(workspace, script)
        layer, entries = shelf.changes(workspace, clamp=OLD, settle=True)
        kept = shelf.describe(workspace) if _is_copy(shelf) else {}
        workspace.keep(layer.diff_id)
    return layer, entries, kept


def _is_copy(shelf: Shelf) -> bool:
    return shelf.roots.session.tier.root == "copy"


def _is_steady(shelf: Shelf, layers: list[Layer]) -> bool:
    """Tell whether a root that was kept shows no change of its own."""
    with shelf.roots.workspace(layers) as workspace:
        shelf.run(workspace, "ls -lR / >/dev/null 2>&1 || :")
        _, entries = shelf.changes(workspace)
    return not entries


def _fresh(shelf: Shelf, layers: list[Layer]) -> dict[str, Any]:
    """Describe a root that is made from layers anew."""
    known, shelf.roots._copies._roots = shelf.roots._copies._roots, {}
    with shelf.roots.workspace(layers) as workspace:
        found = shelf.describe(_recorded(workspace))
    shelf.roots._copies._roots = known
    return found


def _recorded(workspace: Workspace) -> Workspace:
    workspace._record()
    return workspace


def _entries_of(tar: bytes) -> list[Any]:
    from imgbuild.layer.tarread import scan

    entries: list[Entry] = []
    scan(io.BytesIO(tar), entries.append)
    return _shown(entries)


def _shown(entries: list[Entry]) -> list[Any]:
    return [
        [e.type, e.path.decode(errors="replace"), e.mode, e.uid, e.gid, e.mtime, e.size]
        for e in entries
    ]


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[Any]:
    for row in (*one.values(), *other.values()):
        for part in row:
            if isinstance(part, dict) and part.get(recorded.OWNER) == b"0:0".hex():
                del part[recorded.OWNER]  # says what is so without it
    names = sorted(set(one) | set(other))
    return [(n, one.get(n), other.get(n)) for n in names if one.get(n) != other.get(n)]
