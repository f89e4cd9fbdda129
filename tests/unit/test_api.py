"""The library's face: what callers may write, what is refused before a build, what it gives."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

import imgbuild
from imgbuild.errors import DockerfileError, NameNotFoundError, StoreError, UsageError
from imgbuild.events import BuildFinished, Event, Notice
from imgbuild.options import BuildOptions, Output, RegistryOptions
from imgbuild.plan.model import RunStep


@pytest.fixture
def context(tmp_path: Path) -> Path:
    path = tmp_path / "context"
    path.mkdir()
    (path / "f").write_text("content")
    (path / "Dockerfile").write_text("FROM scratch\nARG WHO\nCOPY f /\nLABEL who=$WHO\n")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_build_tells_what_it_made(context: Path, store: Path) -> None:
    events: list[Event] = []
    options = BuildOptions(context, tags=("app",), store=store, build_args={"WHO": "me"})
    result = imgbuild.build(options, events=events.append)
    assert result.names == ("docker.io/library/app:latest",)
    assert [(step.name, step.verdict) for step in result.steps] == [("[1/1] COPY f /", "done")]
    assert [step.layer for step in result.steps] == list(result.layers)
    assert isinstance(events[-1], BuildFinished)
    assert events[-1].digest == result.digest
    details = imgbuild.inspect("app", store=store)
    assert (details.digest, details.name) == (result.digest, result.names[0])
    assert json.loads(details.config)["config"]["Labels"] == {"who": "me"}
    again = imgbuild.build(options)
    assert [step.verdict for step in again.steps] == ["cached"]
    assert again.digest == result.digest


def test_text_will_do_for_paths_and_lists_for_tuples(
    context: Path, store: Path, tmp_path: Path
) -> None:
    result = imgbuild.build(
        str(context),
        dockerfile=str(context / "Dockerfile"),
        store=str(store),
        tags=["a", "b:1"],
        outputs=[Output("oci", str(tmp_path / "image.tar"))],  # type: ignore[arg-type]  # on purpose
        iidfile=str(tmp_path / "id"),
        metadata_file=str(tmp_path / "metadata"),
        build_contexts={"other": tmp_path},
    )
    assert result.names == ("docker.io/library/a:latest", "docker.io/library/b:1")
    assert (tmp_path / "id").read_text() == result.config_digest
    assert json.loads((tmp_path / "metadata").read_text()) == {
        "containerimage.config.digest": result.config_digest,
        "containerimage.descriptor": json.loads((tmp_path / "metadata").read_text())[
            "containerimage.descriptor"
        ],
        "containerimage.digest": result.digest,
        "image.name": ",".join(result.names),
    }
    assert tarfile.is_tarfile(tmp_path / "image.tar")


@pytest.mark.parametrize(
    ("given", "argument", "seen"), [(5, None, "5"), (5, "7", "7"), (None, "7", "7")]
)
def test_the_epoch_is_a_build_argument_as_well(
    context: Path, store: Path, given: int | None, argument: str | None, seen: str
) -> None:
    (context / "Dockerfile").write_text(
        "FROM scratch\nARG SOURCE_DATE_EPOCH\nCOPY f /\nLABEL at=$SOURCE_DATE_EPOCH\n"
    )
    arguments = {} if argument is None else {"SOURCE_DATE_EPOCH": argument}
    imgbuild.build(context, store=store, tags=["a"], source_date_epoch=given, build_args=arguments)
    config = json.loads(imgbuild.inspect("a", store=store).config)
    assert config["config"]["Labels"] == {"at": seen}
    assert config["created"] == f"1970-01-01T00:00:0{seen}Z"


def test_one_name_is_no_list_of_letters(context: Path, store: Path) -> None:
    assert imgbuild.build(context, store=store, tags="ab").names == ("docker.io/library/ab:latest",)


@pytest.mark.parametrize("context", [None, b"folder", 7, ["."]])
def test_a_context_of_another_type(context: Any, store: Path) -> None:
    with pytest.raises(UsageError, match=f"a context cannot be {type(context).__name__}"):
        imgbuild.build(context, store=store)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dockerfil": "x"}, "unknown build option: dockerfil"),
        ({"network": "bridge"}, "unknown network: bridge"),
        ({"source_date_epoch": -1}, "before 1970"),
        ({"source_date_epoch": "context"}, "is no number"),
        ({"download_limit": "16g"}, "the limit of downloads"),
        ({"secrets": {"name": "s3cret"}}, "secrets has no Secret, but a str"),
        ({"secrets": [imgbuild.Secret("name", value="s3cret")]}, "of the secret name is no bytes"),  # type: ignore[arg-type]
        ({"ssh": ["default"]}, "ssh has no SshAgent, but a str"),
        ({"build_args": {"A": 1}}, r"build_args\['A'\] is no text: 1"),
        ({"labels": {"A": None}}, r"labels\['A'\] is no text"),
        ({"tags": ["app@sha256:" + "0" * 64]}, "a name with a digest cannot be given"),
        ({"push": True}, "--push needs a name"),
        ({"platform": "linux/amd64/v1/x"}, "invalid platform"),
        ({"iidfile": "/nowhere/id"}, "--iidfile: there is no folder /nowhere"),
        ({"metadata_file": "/"}, "--metadata-file: / is a directory"),
        ({"outputs": [Output("oci", Path("/nowhere/f"))]}, "there is no folder /nowhere"),
        ({"outputs": [Output("docker", Path("/"))]}, "--output: / is a directory"),
        ({"outputs": [Output("oci", Path("/dev/null"), tar=False)]}, "is not a directory"),
        ({"outputs": [Output("oci", Path("-"), tar=False)]}, "standard output"),
    ],
)
def test_what_is_refused_before_anything_is_built(
    context: Path, store: Path, fields: dict[str, Any], message: str
) -> None:
    events: list[Event] = []
    with pytest.raises(UsageError, match=message):
        imgbuild.build(context, store=store, events=events.append, **fields)
    assert events == []


def test_options_come_one_way(context: Path) -> None:
    with pytest.raises(UsageError, match="not both"):
        imgbuild.build(BuildOptions(context), tags=["x"])


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_an_archive_goes_to_standard_output(
    context: Path, store: Path, kind: Any, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    imgbuild.build(context, store=store, outputs=[Output(kind, Path("-"))])
    with tarfile.open(fileobj=io.BytesIO(capfdbinary.readouterr().out)) as archive:
        assert "index.json" in archive.getnames()
    assert not Path("-").exists()


def test_names_come_and_go(context: Path, store: Path) -> None:
    imgbuild.build(context, store=store, tags=["a"])
    imgbuild.tag("a", "b:2", store=store)
    assert [image.familiar for image in imgbuild.images(store=store)] == ["a:latest", "b:2"]
    imgbuild.remove("a", store=store)
    assert [image.familiar for image in imgbuild.images(store=store)] == ["b:2"]
    for gone in (imgbuild.remove, imgbuild.inspect, imgbuild.push):
        with pytest.raises(NameNotFoundError, match="no such image: docker.io/library/a:latest"):
            gone("a", store=store)


def test_a_plan_builds_nothing(context: Path, store: Path) -> None:
    plan = imgbuild.plan(context, store=store)
    assert [step.created_by for step in plan.stages[0].steps][1] == "COPY f / # buildkit"
    assert imgbuild.images(store=store) == []
    assert not list((store / "blobs/sha256").iterdir())


def test_a_text_is_parsed_without_a_store() -> None:
    found = imgbuild.parse("FROM debian AS x\nRUN true\n")
    assert [stage.from_.name for stage in found.stages] == ["x"]
    with pytest.raises(imgbuild.DockerfileError, match="unknown instruction: COPPY") as caught:
        imgbuild.parse(b"FROM x\nCOPPY a b\n", "web.Dockerfile")
    assert caught.value.span == ("web.Dockerfile", 2, 2)


def test_another_language_is_told_before_it_is_parsed(context: Path, store: Path) -> None:
    (context / "Dockerfile").write_text("#syntax=example.com/yaml\nversion: 1\n")
    with pytest.raises(imgbuild.DockerfileError, match="the frontend example.com/yaml"):
        imgbuild.plan(context, store=store)
    own = {"BUILDKIT_SYNTAX": "docker/dockerfile:1"}
    with pytest.raises(imgbuild.DockerfileError, match="unknown instruction: version:"):
        imgbuild.plan(context, store=store, build_args=own)


def test_proxies_of_docker_reach_commands_only(context: Path, store: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text(
        'FROM scratch\nCOPY f /\nRUN ["/f"]\nARG HTTP_PROXY\nRUN ["/f"]\n'
    )
    (tmp_path / "config.json").write_text(
        '{"proxies": {"default": {"httpProxy": "http://p", "noProxy": "a"}}}'
    )
    registry = RegistryOptions(docker_config=tmp_path)
    plan = imgbuild.plan(context, store=store, registry=registry, build_args={"NO_PROXY": "b"})
    first, second = (step for step in plan.stages[0].steps if isinstance(step, RunStep))
    pairs = [("HTTP_PROXY", "http://p"), ("http_proxy", "http://p")]
    pairs += [("NO_PROXY", "b"), ("no_proxy", "b")]
    assert list(first.hidden_env) == pairs
    assert not {"HTTP_PROXY", "NO_PROXY"} & dict(first.env).keys()
    assert first.created_by == "RUN /f # buildkit"
    # Declared, it is an argument as any other.
    assert dict(second.env)["HTTP_PROXY"] == "http://p"
    assert second.created_by == "RUN |1 HTTP_PROXY=http://p /f # buildkit"
    (tmp_path / "config.json").write_text("{")
    events: list[Event] = []
    options = BuildOptions(context, store=store, registry=registry)
    assert imgbuild.plan(options, events=events.append).stages
    assert [type(event) for event in events] == [Notice]


def test_a_name_stays_when_an_output_fails(
    context: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imgbuild.build import deliver

    def fail(*_args: object) -> None:
        raise StoreError("no")

    monkeypatch.setattr(deliver, "write_output", fail)
    with pytest.raises(StoreError, match="no"):
        imgbuild.build(context, store=store, tags=["a"], outputs=[Output("oci", tmp_path / "x")])
    assert [image.familiar for image in imgbuild.images(store=store)] == ["a:latest"]


def test_a_build_without_a_name_is_told_by_its_digest(context: Path, store: Path) -> None:
    built = imgbuild.build(context, store=store)
    (info,) = imgbuild.images(store=store)
    assert (info.name, info.familiar, info.digest) == ("", "<none>", built.digest)
    for text in (built.digest, built.digest[:19], built.config_digest, built.config_digest[:15]):
        details = imgbuild.inspect(text, store=store)
        assert (details.name, details.digest) == ("", built.digest)
    with pytest.raises(UsageError, match="names no repository"):
        imgbuild.push(built.digest, store=store)
    imgbuild.tag(built.digest[:19], "app", store=store)
    assert [image.familiar for image in imgbuild.images(store=store)] == ["app:latest"]
    assert imgbuild.inspect(built.digest, store=store).name == "docker.io/library/app:latest"
    # It has a name: building it again without one adds nothing.
    imgbuild.build(context, store=store)
    assert [image.familiar for image in imgbuild.images(store=store)] == ["app:latest"]


def test_what_a_digest_stands_for_is_removed(context: Path, store: Path) -> None:
    built = imgbuild.build(context, store=store)
    imgbuild.remove(built.digest[:19], store=store)
    assert imgbuild.images(store=store) == []
    with pytest.raises(NameNotFoundError, match="no such image: sha256:"):
        imgbuild.inspect(built.digest, store=store)
    imgbuild.build(context, store=store, tags=["a", "b"])
    with pytest.raises(UsageError, match="has 2 names") as caught:
        imgbuild.remove(built.digest, store=store)
    assert "docker.io/library/a:latest, docker.io/library/b:latest" in str(caught.value.hint)
    imgbuild.remove("a", store=store)
    imgbuild.remove(built.digest, store=store)
    assert imgbuild.images(store=store) == []


def test_a_digest_that_begins_several_images_is_refused(context: Path, store: Path) -> None:
    digests = set()
    for number in range(17):
        (context / "f").write_text(str(number))
        digests.add(imgbuild.build(context, store=store, tags=[f"n{number}"]).digest)
    first = next(d for d in digests if sum(o[:8] == d[:8] for o in digests) > 1)
    with pytest.raises(NameNotFoundError, match=f"several images begin with {first[:8]}"):
        imgbuild.inspect(first[:8], store=store)


def test_a_name_like_a_digest_is_refused(context: Path, store: Path) -> None:
    with pytest.raises(UsageError, match="like a digest"):
        imgbuild.build(context, store=store, tags=["sha256:0123"])
    imgbuild.build(context, store=store, tags=["sha256:latest"])


def test_an_argument_that_nothing_declares_is_noticed(context: Path, store: Path) -> None:
    events: list[Event] = []
    given = {"WHO": "me", "WHOM": "you", "HTTP_PROXY": "http://p"}
    imgbuild.build(context, store=store, build_args=given, events=events.append)
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert notices == ["no ARG declares these build arguments: WHOM (did you mean WHO?)"]


def _tar(**files: bytes) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return io.BytesIO(out.getvalue())


def test_open_files_are_contexts_and_dockerfiles(context: Path, store: Path) -> None:
    files = {"Dockerfile": b"FROM scratch\nCOPY f /\n", "other": b"FROM scratch\n", "f": b"x"}
    assert len(imgbuild.build(_tar(**files), store=store).layers) == 1
    assert imgbuild.build(_tar(**files), dockerfile="other", store=store).layers == ()
    assert imgbuild.build(BuildOptions(io.BytesIO(b"FROM scratch"), store=store)).layers == ()
    given = io.BytesIO(b"FROM scratch\nCOPY f f2 /x/\n")
    (context / "f2").touch()
    assert len(imgbuild.build(context, dockerfile=given, store=store).layers) == 1
    assert imgbuild.plan(_tar(**files), store=store).stages
    assert imgbuild.check(_tar(**files), store=store).error is None
    with (context / "Dockerfile").open("rb") as file:
        assert [one.default for one in imgbuild.targets(file, store=store).stages] == [True]
    text: Any = io.StringIO("FROM scratch")
    with pytest.raises(UsageError, match="the file that was given gives text, not bytes"):
        imgbuild.build(text, store=store)
    text.seek(0)
    with pytest.raises(UsageError, match="the Dockerfile that was given as a file gives text"):
        imgbuild.build(context, dockerfile=text, store=store)


@pytest.mark.parametrize("field", ["context", "dockerfile"])
def test_the_library_leaves_standard_input_alone(field: str, context: Path, store: Path) -> None:
    with pytest.raises(UsageError, match="does not read standard input") as caught:
        imgbuild.build(BuildOptions(**{"context": context, "store": store, field: "-"}))
    assert "sys.stdin.buffer" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("COPY --chmod=9 a /", "invalid chmod parameter"),
        ("COPY --exclude=[ a /", "invalid excludepatterns"),
        ("COPY https://example.com/a /", "source can't be a URL for COPY"),
        ("ADD --checksum=md5:aa https://example.com/a /", "unsupported digest algorithm"),
        ("ADD --checksum=x a /", "checksum requires HTTP"),
    ],
)
def test_a_check_finds_what_is_wrong_with_a_copy(
    context: Path, store: Path, line: str, message: str
) -> None:
    (context / "Dockerfile").write_text(f"FROM scratch\n{line}\n")
    error = imgbuild.check(context, store=store).error
    assert isinstance(error, DockerfileError)
    assert message in error.message
    assert error.span is not None
    assert error.span.first == 2
    with pytest.raises(DockerfileError, match=message):
        imgbuild.plan(context, store=store)
