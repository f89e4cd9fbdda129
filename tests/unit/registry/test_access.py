"""Who is let in, and that credentials go to nobody else."""

import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imgbuild.errors import AuthenticationError, RegistryError
from imgbuild.oci import media_types
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import digest_bytes
from imgbuild.registry import auth as auth_module
from tests.support.registry import IDENTITY, PASSWORD, USER, FakeRegistry, basic
from tests.unit.registry.conftest import Connect

BLOB = b"content" * 1000
LAYER = Descriptor(media_types.OCI_LAYER_GZIP, digest_bytes(BLOB), len(BLOB))
Login = Callable[..., Path]


def read(client: object) -> bytes:
    with client.open(LAYER) as stream:  # type: ignore[attr-defined]
        data: bytes = stream.read()
        return data


@pytest.fixture(params=["basic", "bearer"])
def guarded(request: pytest.FixtureRequest, fake: FakeRegistry) -> FakeRegistry:
    fake.auth = request.param
    fake.add_blob("team/app", BLOB)
    return fake


def test_credentials_open_the_door(guarded: FakeRegistry, connect: Connect, login: Login) -> None:
    client = connect(guarded.host, docker_config=login(guarded.host))
    assert read(client) == BLOB
    assert read(client) == BLOB
    # Nothing is shown before it is asked for, and the answer is remembered.
    sent = [request.authorization for request in guarded.seen("GET", "/blobs/")]
    assert sent[0] is None
    assert sent[1] == sent[2] is not None
    assert len(sent) == 3


def test_password_goes_to_the_token_server_only(
    fake: FakeRegistry, connect: Connect, login: Login
) -> None:
    fake.auth = "bearer"
    fake.add_blob("team/app", BLOB)
    read(connect(fake.host, docker_config=login(fake.host)))
    secret = basic(USER, PASSWORD)
    assert {r.path for r in fake.requests if r.authorization == secret} == {"/token"}
    (asked,) = fake.seen("GET", "/token")
    assert asked.query["service"] == ["fake.service"]
    assert asked.query["scope"] == ["repository:team/app:pull"]
    assert asked.query["account"] == [USER]


def test_wrong_password_names_the_host_and_the_remedy(
    guarded: FakeRegistry, connect: Connect, login: Login
) -> None:
    folder = login(guarded.host, USER, "wrong")
    with pytest.raises(AuthenticationError) as caught:
        connect(guarded.host, docker_config=folder).open(LAYER)
    assert guarded.host in caught.value.message
    assert f"docker login {guarded.host}" in (caught.value.hint or "")
    assert "wrong" not in caught.value.message
    # A wrong password is not tried again and again: accounts get locked.
    assert len([r for r in guarded.requests if r.authorization]) == 1


def test_no_credentials_names_the_host_and_the_remedy(
    guarded: FakeRegistry, connect: Connect
) -> None:
    with pytest.raises(AuthenticationError, match="asks for credentials") as caught:
        connect(guarded.host).open(LAYER)
    assert f"docker login {guarded.host}" in (caught.value.hint or "")


def test_public_image_needs_no_credentials(fake: FakeRegistry, connect: Connect) -> None:
    fake.auth, fake.public = "bearer", ("team/app",)
    fake.add_blob("team/app", BLOB)
    assert read(connect(fake.host)) == BLOB
    (asked,) = fake.seen("GET", "/token")
    assert asked.authorization is None
    assert "account" not in asked.query


def test_anonymous_push_is_denied(fake: FakeRegistry, connect: Connect) -> None:
    fake.auth, fake.public = "bearer", ("team/app",)
    import io

    with pytest.raises(AuthenticationError):
        connect(fake.host).put(LAYER, lambda: io.BytesIO(BLOB))


def test_identity_token_is_posted(fake: FakeRegistry, connect: Connect, login: Login) -> None:
    fake.auth, fake.identity = "bearer", True
    fake.add_blob("team/app", BLOB)
    assert read(connect(fake.host, docker_config=login(fake.host, identitytoken=IDENTITY))) == BLOB
    (asked,) = fake.seen("POST", "/token")
    assert asked.authorization is None
    assert b"grant_type=refresh_token" in asked.body
    assert b"scope=repository%3Ateam%2Fapp%3Apull" in asked.body


def test_outdated_identity_token(fake: FakeRegistry, connect: Connect, login: Login) -> None:
    fake.auth, fake.identity = "bearer", True
    folder = login(fake.host, identitytoken="old")
    with pytest.raises(AuthenticationError, match="refused the credentials"):
        connect(fake.host, docker_config=folder).open(LAYER)


def test_given_bearer_token_is_used_as_it_is(
    fake: FakeRegistry, connect: Connect, login: Login
) -> None:
    fake.auth = "bearer"
    fake.add_blob("team/app", BLOB)
    fake.tokens["given"] = {"repository:team/app:pull"}
    assert read(connect(fake.host, docker_config=login(fake.host, registrytoken="given"))) == BLOB
    assert not fake.seen(path="/token")


def test_token_that_ran_out_is_renewed(fake: FakeRegistry, connect: Connect, login: Login) -> None:
    fake.auth = "bearer"
    fake.add_blob("team/app", BLOB)
    client = connect(fake.host, docker_config=login(fake.host))
    read(client)
    fake.tokens.clear()
    assert read(client) == BLOB
    assert len(fake.seen("GET", "/token")) == 2


def test_denied_token_is_made_anew_once(fake: FakeRegistry, connect: Connect, login: Login) -> None:
    fake.auth = "bearer"
    fake.add_blob("team/app", BLOB)
    client = connect(fake.host, docker_config=login(fake.host))
    read(client)
    fake.fail("GET", "/blobs/", 403)
    assert read(client) == BLOB
    fake.fail("GET", "/blobs/", 403, times=9)
    with pytest.raises(AuthenticationError, match="does not allow it to alice"):
        client.open(LAYER)


def test_token_is_renewed_before_a_long_upload(
    fake: FakeRegistry, connect: Connect, login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    fake.auth = "bearer"
    now = [1000.0]
    monkeypatch.setattr(auth_module.Authenticator.__init__, "__defaults__", (lambda: now[0],))
    client = connect(fake.host, docker_config=login(fake.host))
    client.exists(LAYER)
    assert len(fake.seen("GET", "/token")) == 1
    now[0] += 200  # of 300: good for a short request, not for a long one
    client.put(LAYER, lambda: io.BytesIO(BLOB))
    assert len(fake.seen("GET", "/token")) == 2
    upload = fake.seen("PUT")[0].authorization
    assert upload != fake.seen("POST", "/uploads/")[0].authorization
    now[0] += 290
    client.exists(LAYER)
    assert len(fake.seen("GET", "/token")) == 3


@pytest.mark.parametrize("expires", [None, 0, -5, 10])
def test_short_lives_count_as_a_minute(
    expires: int | None, fake: FakeRegistry, connect: Connect, login: Login
) -> None:
    fake.auth, fake.expires_in = "bearer", expires
    fake.add_blob("team/app", BLOB)
    client = connect(fake.host, docker_config=login(fake.host))
    read(client)
    read(client)
    assert len(fake.seen("GET", "/token")) == 1


def test_many_threads_ask_for_one_token(fake: FakeRegistry, connect: Connect, login: Login) -> None:
    fake.auth = "bearer"
    fake.add_blob("team/app", BLOB)
    client = connect(fake.host, docker_config=login(fake.host))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: read(client), range(24))) == {BLOB}
    assert len(fake.seen("GET", "/token")) == 1


def test_challenge_that_is_not_repeated_is_asked_for(
    fake: FakeRegistry, connect: Connect, login: Login
) -> None:
    """gcr.io answers 401 without a challenge; GET /v2/ has it."""
    fake.auth = "bearer"
    fake.add_blob("team/app", BLOB)
    fake.fail("GET", "/blobs/", 401)
    assert read(connect(fake.host, docker_config=login(fake.host))) == BLOB


def test_redirected_blob_gets_no_credentials(
    guarded: FakeRegistry, connect: Connect, login: Login
) -> None:
    with FakeRegistry() as storage:
        storage.add_blob("team/app", BLOB)
        guarded.redirect("GET", "/blobs/", f"{storage.url}{{path}}?signature=x", times=9)
        client = connect(guarded.host, docker_config=login(guarded.host))
        client.exists(LAYER)  # so that a token or password is at hand
        assert read(client) == BLOB
    assert guarded.seen("GET", "/blobs/")[-1].authorization
    (fetched,) = storage.seen("GET")
    assert fetched.authorization is None
    assert fetched.query == {"signature": ["x"]}
    assert all(request.authorization is None for request in storage.requests)


def test_resumed_redirect_asks_the_registry_again(
    fake: FakeRegistry, connect: Connect, login: Login
) -> None:
    """The signed URL that a registry redirects to may have run out."""
    data = BLOB * 100
    layer = Descriptor(media_types.OCI_LAYER_GZIP, digest_bytes(data), len(data))
    fake.auth = "basic"
    with FakeRegistry() as storage:
        storage.add_blob("team/app", data)
        storage.cut("GET", "/blobs/", 100_000)
        fake.redirect("GET", "/blobs/", f"{storage.url}{{path}}", times=9)
        client = connect(fake.host, docker_config=login(fake.host))
        client.exists(layer)
        with client.open(layer) as stream:
            assert stream.read() == data
        assert len(fake.seen("GET", "/blobs/")) == len(storage.seen("GET")) == 2
        assert all(request.authorization is None for request in storage.requests)


def test_redirect_back_home_keeps_the_credentials(
    guarded: FakeRegistry, connect: Connect, login: Login
) -> None:
    guarded.add_blob("team/moved", BLOB)
    client = connect(guarded.host, docker_config=login(guarded.host))
    client.exists(LAYER)
    if guarded.auth == "basic":
        where = f"/v2/team/moved/blobs/{LAYER.digest}"
        guarded.redirect("GET", "/team/app/blobs/", where)
        assert read(client) == BLOB


@pytest.mark.parametrize("status", [401, 403])
def test_storage_that_refuses_learns_nothing(
    status: int, guarded: FakeRegistry, connect: Connect, login: Login
) -> None:
    """A redirect's target must not be able to ask for the registry's credentials."""
    with FakeRegistry() as storage:
        realm = {"WWW-Authenticate": 'Basic realm="give me"'}
        storage.fail("GET", "/blobs/", status, times=9, headers=realm)
        guarded.redirect("GET", "/blobs/", f"{storage.url}{{path}}", times=9)
        client = connect(guarded.host, docker_config=login(guarded.host))
        client.exists(LAYER)
        with pytest.raises(RegistryError):
            client.open(LAYER)
        assert len(storage.requests) == 1
        assert storage.requests[0].authorization is None


def test_upload_elsewhere_gets_no_credentials(
    guarded: FakeRegistry, connect: Connect, login: Login
) -> None:
    import io

    guarded.blobs.clear()
    with FakeRegistry() as storage:
        storage.uploads.add("here")
        where = f"{storage.url}/v2/team/app/blobs/uploads/here"
        client = connect(guarded.host, docker_config=login(guarded.host))
        client.exists(LAYER)
        guarded.fail("POST", "/uploads/", 202, headers={"Location": where})
        client.put(LAYER, lambda: io.BytesIO(BLOB))
        assert storage.blobs["team/app", LAYER.digest] == BLOB
        assert all(request.authorization is None for request in storage.requests)


def test_netrc_and_environment_are_not_read(
    fake: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login {USER} password leaked\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    fake.add_blob("team/app", BLOB)
    assert read(connect(fake.host)) == BLOB
    assert all(request.authorization is None for request in fake.requests)


def test_cookies_are_not_kept(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_blob("team/app", BLOB)
    fake.fail("HEAD", "/blobs/", 200, headers={"Set-Cookie": "session=1; Path=/"})
    client = connect(fake.host)
    client.exists(LAYER)
    read(client)
    assert all("cookie" not in request.headers for request in fake.requests)


def test_token_request_is_not_redirected_with_its_secret(
    fake: FakeRegistry, connect: Connect, login: Login
) -> None:
    fake.auth = "bearer"
    with FakeRegistry(identity=True) as thief:
        fake.redirect("POST", "/token", f"{thief.url}/token", times=9)
        with pytest.raises(RegistryError, match="not allowed"):
            connect(fake.host, docker_config=login(fake.host, identitytoken=IDENTITY)).open(LAYER)
        fake.redirect("GET", "/token", f"{thief.url}/token", times=9)
        with pytest.raises(RegistryError):
            connect(fake.host, docker_config=login(fake.host)).open(LAYER)
        assert all(IDENTITY.encode() not in request.body for request in thief.requests)
        assert all(request.authorization is None for request in thief.requests)


@pytest.mark.parametrize(
    "realm",
    [
        "http://registry.example/token",
        "ftp://x/token",
        "nonsense",
        "http://127.0.0.1:x/",
        "http://[::1",
    ],
)
def test_unsafe_realm_gets_nothing(
    realm: str, fake: FakeRegistry, connect: Connect, login: Login
) -> None:
    fake.auth, fake.realm = "bearer", realm
    with pytest.raises(AuthenticationError, match="wants credentials"):
        connect(fake.host, docker_config=login(fake.host)).open(LAYER)


def test_redirects_end(fake: FakeRegistry, connect: Connect) -> None:
    fake.redirect("GET", "/blobs/", "{path}", times=99)
    with pytest.raises(RegistryError, match="redirects"):
        connect(fake.host).open(LAYER)
    assert len(fake.seen("GET", "/blobs/")) == 11


@pytest.mark.parametrize(
    "target", ["http://storage.example/x", "file:///etc/passwd", "http://[::1"]
)
def test_redirect_off_https_is_refused(target: str, fake: FakeRegistry, connect: Connect) -> None:
    fake.redirect("GET", "/blobs/", target)
    with pytest.raises(RegistryError, match="not allowed"):
        connect(fake.host).open(LAYER)


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"token": 5}', b'{"token": "a\\nb"}', b"x" * (2 << 20)]
)
def test_token_server_that_talks_nonsense(
    answer: bytes, fake: FakeRegistry, connect: Connect
) -> None:
    fake.auth = "bearer"
    fake.fail("GET", "/token", 200, body=answer, times=9)
    with pytest.raises(RegistryError, match="gave no token"):
        connect(fake.host).open(LAYER)


@pytest.mark.parametrize("life", [b"9" * 400, b"1e999", b"NaN", b"-5", b"true"])
def test_lives_of_tokens_that_cannot_be(life: bytes, fake: FakeRegistry, connect: Connect) -> None:
    fake.auth = "bearer"
    fake.fail("GET", "/token", 200, body=b'{"token": "x", "expires_in": %b}' % life, times=9)
    with pytest.raises(AuthenticationError):
        connect(fake.host).open(LAYER)


@pytest.mark.parametrize("location", ["http://[::1", "//[", "http://127.0.0.1:x/"])
def test_uploads_do_not_go_nowhere(location: str, fake: FakeRegistry, connect: Connect) -> None:
    fake.fail("POST", "/uploads/", 202, headers={"Location": location}, times=9)
    with pytest.raises(RegistryError, match="not allowed"):
        connect(fake.host).put(LAYER, lambda: io.BytesIO(BLOB))


def test_token_server_in_trouble_is_asked_again(
    fake: FakeRegistry, connect: Connect, login: Login, waits: list[float]
) -> None:
    fake.auth = "bearer"
    fake.add_blob("team/app", BLOB)
    fake.fail("GET", "/token", 503, times=2)
    assert read(connect(fake.host, docker_config=login(fake.host))) == BLOB
    assert len(waits) == 2


def test_secrets_are_not_shown() -> None:
    from imgbuild.registry.credentials import Credential

    shown = repr(Credential("alice", "hidden", "hidden", "hidden"))
    assert "hidden" not in shown
    assert base64.b64encode(b"alice:hidden").decode() not in shown
