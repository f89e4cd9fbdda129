"""A plan as people read it, and as JSON."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, assert_never

from imgbuild.oci.config import ImageConfig, dump_config
from imgbuild.plan.fetching import redacted
from imgbuild.plan.model import (
    Base,
    BaseImage,
    BuildPlan,
    ContextSource,
    CopyStep,
    GitSource,
    ImageSource,
    MetaStep,
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
    Stage,
    StageBase,
    StageSource,
    Step,
    UrlSource,
    WorkdirStep,
)


def render_plan(plan: BuildPlan) -> str:
    """Return the text that `imgbuild plan` shows: each stage, its steps, and the final config."""
    return "".join(f"{_printable(line)}\n" for line in _lines(plan))


def render_json(plan: BuildPlan) -> str:
    """Return the plan as indented JSON text."""
    import json

    return json.dumps(to_json(plan), indent=2) + "\n"


def to_json(plan: BuildPlan) -> dict[str, Any]:
    """Return the plan as JSON values; proxies show by name only, they may hold passwords."""
    return {
        "platform": str(plan.platform),
        "target": plan.target,
        "source_date_epoch": plan.source_date_epoch,
        "stages": [_stage_json(stage) for stage in plan.stages],
    }


# --- text


def _lines(plan: BuildPlan) -> Iterator[str]:
    yield f"platform {plan.platform}"
    if plan.source_date_epoch is not None:
        yield f"source date epoch {plan.source_date_epoch}"
    for stage in plan.stages:
        yield ""
        name = f" {stage.name}" if stage.name else ""
        yield f"stage {stage.index}{name} (line {stage.span.first}) from {_base_text(stage.base)}"
        for step in stage.steps:
            yield from _step_lines(step)
    yield ""
    yield from _config_lines(plan.stage(plan.target).config)


def _base_text(base: Base) -> str:
    match base:
        case ScratchBase():
            return "scratch"
        case StageBase(index=index):
            return f"stage {index}"
        case BaseImage(name=name, digest=digest):
            return name if digest is None or "@" in name else f"{name}@{digest}"
        case _:
            assert_never(base)


def _step_lines(step: Step) -> Iterator[str]:
    if isinstance(step, MetaStep):
        yield f"  {step.created_by}"
        return
    yield f"  {step.name}"
    match step:
        case RunStep():
            special = f", security {step.security}" if step.security != "sandbox" else ""
            special += "".join(f", device {device}" for device in step.devices)
            who = step.user or "root"
            yield f"      in {step.cwd} as {who}, network {step.network}{special}"
            for mount in step.mounts:
                yield f"      mount {_mount_text(mount)}"
            if step.script is not None:
                yield f"      script {step.script.name}: {len(step.script.content)} characters"
        case CopyStep():
            if step.sources:
                yield f"      {_sources_text(step)}"
            for document in step.documents:
                yield f"      document {document.name}: {len(document.content)} characters"
            yield f"      to {step.dest}{_copy_options(step)}"
        case WorkdirStep():
            yield f"      make {step.path} as {step.user or 'root'}"
        case _:
            assert_never(step)


def _mount_text(mount: PlannedMount) -> str:
    match mount:
        case PlannedBind():
            access = "" if mount.readonly else ", writes thrown away"
            return f"/{mount.path} {_source_text(mount.source)} at {mount.target}{access}"
        case PlannedCache():
            seed = f", begun /{mount.path} {_source_text(mount.source)}" if mount.source else ""
            access = ", read-only" if mount.readonly else ""
            return f"cache {mount.id} at {mount.target}, {mount.sharing}{seed}{access}"
        case PlannedTmpfs():
            size = "" if mount.size is None else f" of {mount.size} bytes"
            return f"tmpfs{size} at {mount.target}"
        case PlannedSecret():
            places = [mount.target and f"at {mount.target}", mount.env and f"as ${mount.env}"]
            return f"secret {mount.id} {' and '.join(filter(None, places))}{_required(mount)}"
        case PlannedSsh():
            return f"ssh agent {mount.id} at {mount.target}{_required(mount)}"
        case _:
            assert_never(mount)


def _required(mount: PlannedSecret | PlannedSsh) -> str:
    return ", required" if mount.required else ""


def _printable(text: str) -> str:
    """Return `text` with what a terminal would act on, and what is no text, as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _sources_text(step: CopyStep) -> str:
    shown = [_shown_source(source) for source in step.sources]
    if step.pivots is not None:
        shown = [
            f"{pivot or '.'} in {path}" for path, pivot in zip(shown, step.pivots, strict=True)
        ]
    text = ", ".join(shown)
    is_fetched = not any(isinstance(source, str) for source in step.sources)
    return text if is_fetched else f"{_source_text(step.source)}: {text}"


def _shown_source(source: str | RemoteSource) -> str:
    match source:
        case str():
            return source or "."
        case UrlSource(url=url, checksum=checksum):
            return f"fetched {redacted(url)}{f' ({checksum})' if checksum else ''}"
        case GitSource(repository=repository, keep_git_dir=keep, checksum=checksum):
            text = f"cloned {redacted(repository.remote)} {repository.ref or 'HEAD'}"
            text += f":{repository.subdir}" if repository.subdir else ""
            text += f" ({checksum})" if checksum else ""
            return f"{text} with .git" if keep else text
        case _:
            assert_never(source)


def _copy_options(step: CopyStep) -> str:
    options = ""
    if step.chown is not None:
        options += f", owner {step.chown}"
    if step.chmod is not None:
        options += f", mode {_mode_text(step.chmod)}"
    if step.exclude:
        options += f", without {' '.join(step.exclude)}"
    if step.link:
        options += ", linked"
    local = step.unpack and (not step.sources or any(isinstance(s, str) for s in step.sources))
    if local or step.unpack_fetched:
        options += ", unpacking archives"
    return options + (", fetched ones too" if local and step.unpack_fetched else "")


def _mode_text(chmod: int | str) -> str:
    return chmod if isinstance(chmod, str) else f"{chmod:04o}"


def _source_text(source: Source) -> str:
    match source:
        case ContextSource(name=name):
            return f"from context {name}" if name else "from the context"
        case StageSource(index=index):
            return f"from stage {index}"
        case ImageSource(image=image):
            return f"from {_base_text(image)}"
        case _:
            assert_never(source)


def _config_lines(config: ImageConfig) -> Iterator[str]:
    import json

    yield "config"
    for key, value in json.loads(dump_config(config))["config"].items():
        yield f"  {key} {json.dumps(value, ensure_ascii=False)}"


# --- JSON


def _stage_json(stage: Stage) -> dict[str, Any]:
    import json

    return {
        "index": stage.index,
        "name": stage.name,
        "lines": [stage.span.first, stage.span.last],
        "base": _base_json(stage.base),
        "title": stage.title,
        "steps": [_step_json(step) for step in stage.steps],
        "config": json.loads(dump_config(stage.config)),
    }


def _base_json(base: Base) -> dict[str, Any]:
    match base:
        case ScratchBase():
            return {"kind": "scratch"}
        case StageBase(index=index):
            return {"kind": "stage", "index": index}
        case BaseImage():
            return _image_json(base)
        case _:
            assert_never(base)


def _image_json(image: BaseImage) -> dict[str, Any]:
    layers = [layer.diff_id for layer in image.layers]
    return {"kind": "image", "name": image.name, "digest": image.digest, "layers": layers}


def _source_json(source: Source) -> dict[str, Any]:
    match source:
        case ContextSource(name=name):
            return {"kind": "context", "name": name}
        case StageSource(index=index):
            return {"kind": "stage", "index": index}
        case ImageSource(image=image):
            return _image_json(image)
        case _:
            assert_never(source)


def _one_source_json(source: str | RemoteSource) -> Any:
    match source:
        case str():
            return source
        case UrlSource(url=url, checksum=checksum):
            return {"kind": "url", "url": redacted(url), "checksum": checksum}
        case GitSource(repository=repository, keep_git_dir=keep, checksum=checksum):
            return {
                "kind": "git",
                "remote": redacted(repository.remote),
                "ref": repository.ref,
                "subdir": repository.subdir,
                "submodules": repository.submodules,
                "keep_git_dir": keep,
                "checksum": checksum,
            }
        case _:
            assert_never(source)


def _mount_json(mount: PlannedMount) -> dict[str, Any]:
    found = {field.name: getattr(mount, field.name) for field in fields(mount)}
    if isinstance(mount, PlannedBind | PlannedCache) and mount.source is not None:
        found["source"] = _source_json(mount.source)
    return {"type": type(mount).__name__.removeprefix("Planned").lower(), **found}


def _step_json(step: Step) -> dict[str, Any]:
    lines = [step.span.first, step.span.last]
    if isinstance(step, MetaStep):
        return {"kind": "meta", "lines": lines, "created_by": step.created_by}
    head = {"lines": lines, "name": step.name, "created_by": step.created_by}
    match step:
        case RunStep():
            return {
                "kind": "run",
                **head,
                "argv": step.argv,
                "env": dict(step.env),
                "hidden_env": [name for name, _ in step.hidden_env],
                "cwd": step.cwd,
                "user": step.user,
                "network": step.network,
                "script": step.script and step.script._asdict(),
                "security": step.security,
                "devices": step.devices,
                "mounts": [_mount_json(mount) for mount in step.mounts],
            }
        case CopyStep():
            return {
                "kind": "copy",
                **head,
                "source": _source_json(step.source),
                "sources": [_one_source_json(source) for source in step.sources],
                "dest": step.dest,
                "chown": step.chown,
                "chmod": None if step.chmod is None else _mode_text(step.chmod),
                "unpack": step.unpack,
                "unpack_fetched": step.unpack_fetched,
                "documents": dict(step.documents),
                "exclude": step.exclude,
                "link": step.link,
                "parents": step.pivots,
            }
        case WorkdirStep():
            return {"kind": "mkdir", **head, "path": step.path, "user": step.user}
        case _:
            assert_never(step)
