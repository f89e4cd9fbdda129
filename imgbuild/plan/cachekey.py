"""Cache keys: what a step's result depends on, as one canonical document and its digest.

Spans, names and history texts are left out, so that re-indenting a Dockerfile keeps the cache.
Proxies are left out as docker does. JSON frames the parts: no two inputs can run together.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, assert_never

from imgbuild.oci.platform import Platform
from imgbuild.plan.model import (
    BaseImage,
    CacheKey,
    ContextSource,
    CopyStep,
    GitSource,
    ImageSource,
    PlannedBind,
    PlannedCache,
    PlannedMount,
    PlannedSecret,
    PlannedSsh,
    PlannedTmpfs,
    RemoteSource,
    RunStep,
    ScratchBase,
    Source,
    StageSource,
    UrlSource,
    WorkdirStep,
)

# Raised whenever the same step may give another layer than before.
VERSION = 1

StepKind = Literal["run", "copy", "mkdir"]
MakingStep = RunStep | CopyStep | WorkdirStep


def chain(
    parent: CacheKey, kind: str, fields: Mapping[str, Any], inputs: Mapping[str, str]
) -> tuple[CacheKey, bytes]:
    """Return the key of what `kind` makes of `parent`, and the document that the key is the digest of.

    `fields` must be JSON values; `inputs` maps what was read to digests.
    """
    document = json.dumps(
        [VERSION, parent, kind, fields, inputs], sort_keys=True, separators=(",", ":")
    ).encode("ascii")
    return CacheKey(f"sha256:{hashlib.sha256(document).hexdigest()}"), document


def base_key(base: BaseImage | ScratchBase, platform: Platform) -> CacheKey:
    """Return the key that the steps of a stage start from.

    Only content counts: two names of the same layers share a cache. What steps take from the
    base's config is in their own fields.
    """
    layers = [layer.diff_id for layer in base.layers] if isinstance(base, BaseImage) else []
    return chain(CacheKey(""), "base", {"platform": str(platform), "layers": layers}, {})[0]


def step_kind(step: MakingStep) -> StepKind:
    match step:
        case RunStep():
            return "run"
        case CopyStep():
            return "copy"
        case WorkdirStep():
            return "mkdir"
        case _:
            assert_never(step)


def step_fields(step: MakingStep) -> Mapping[str, Any]:
    """Return what of a step its result depends on, beside its parent and the content it reads."""
    fields: dict[str, Any]
    match step:
        case RunStep():
            fields = {
                "argv": step.argv,
                "env": step.env,
                "cwd": step.cwd,
                "user": step.user,
                "network": step.network,
            }
            return {**fields, **_extra_run_fields(step)}
        case CopyStep():
            fields = {
                "from": _source_kind(step.source),
                "sources": [_source_field(source) for source in step.sources],
                "dest": step.dest,
                "chown": step.chown,
                "chmod": step.chmod,
                "unpack": step.unpack,
            }
            return {**fields, **_extra_fields(step)}
        case WorkdirStep():
            return {"path": step.path, "user": step.user}
        case _:
            assert_never(step)


def _extra_run_fields(step: RunStep) -> Mapping[str, Any]:
    """Return what few RUNs have; absent where it is nothing, so that keys stay as they were."""
    fields: dict[str, Any] = {
        "script": step.script,
        "security": step.security if step.security != "sandbox" else None,
        "devices": step.devices,
        "mounts": [mount_fields(mount) for mount in step.mounts],
    }
    return {name: value for name, value in fields.items() if value}


def mount_fields(mount: PlannedMount) -> Mapping[str, Any]:
    """Return what of a mount a result depends on, beside the content that it brings.

    That of secrets, agents and caches is in no key.
    """
    fields: dict[str, Any]
    match mount:
        case PlannedBind():
            # Which path it is shows in the digest of what is there.
            kind = _source_kind(mount.source)
            return {"type": "bind", "from": kind, "target": mount.target, "ro": mount.readonly}
        case PlannedCache(source=source):
            fields = {"type": "cache", "id": mount.id, "sharing": mount.sharing, "path": mount.path}
            fields |= {"from": source and _source_kind(source), "ro": mount.readonly}
        case PlannedTmpfs():
            fields = {"type": "tmpfs", "size": mount.size, "ro": mount.readonly}
        case PlannedSecret():
            fields = {"type": "secret", "id": mount.id, "env": mount.env}
        case PlannedSsh():
            fields = {"type": "ssh", "id": mount.id}
        case _:
            assert_never(mount)
    fields["target"] = mount.target
    if not isinstance(mount, PlannedTmpfs):
        fields |= {"mode": mount.mode, "uid": mount.uid, "gid": mount.gid}
    return fields


def _extra_fields(step: CopyStep) -> Mapping[str, Any]:
    """Return what few steps have; absent where it is nothing, so that keys stay as they were."""
    fields: dict[str, Any] = {
        "documents": step.documents,
        "exclude": step.exclude,
        "link": step.link,
        "unpack_fetched": step.unpack_fetched,
    }
    extra = {name: value for name, value in fields.items() if value}
    return extra if step.pivots is None else extra | {"pivots": step.pivots}


def _source_field(source: str | RemoteSource) -> str | list[str]:
    # Where it was fetched from does not matter: name, mode and content are among the digests.
    match source:
        case str():
            return source
        case UrlSource():
            return ["url"]
        case GitSource():
            return ["git"]
        case _:
            assert_never(source)


def _source_kind(source: Source) -> str:
    # Which context, stage or image it is shows in the digests; owners are only kept from roots.
    match source:
        case ContextSource():
            return "context"
        case StageSource() | ImageSource():
            return "root"
        case _:
            assert_never(source)
