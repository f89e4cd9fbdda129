import pytest

from imgbuild.build.gitcommand import GitFailedError, RemoteFailedError
from imgbuild.build.giterrors import explained_failure, is_damage
from imgbuild.build.gitremote import parse_remote
from imgbuild.errors import (
    AuthenticationError,
    ContextError,
    DiskFullError,
    ImgbuildError,
    UnreachableError,
)

REMOTE = parse_remote("https://example.com/app.git")


@pytest.mark.parametrize(
    ("said", "reason", "hint"),
    [
        (
            "fatal: could not read Username for 'https://example.com': terminal prompts disabled",
            "could not read Username for 'https://example.com': terminal prompts disabled",
            "--secret id=GIT_AUTH_TOKEN.example.com,env=NAME",
        ),
        (
            "remote: Repository not found.\nfatal: repository 'https://example.com/app.git/' not found",
            "repository 'https://example.com/app.git/' not found",
            "for a private repository give a token",
        ),
        (
            "fatal: unable to access 'https://example.com/': Could not resolve host: example.com",
            "unable to access 'https://example.com/': Could not resolve host: example.com",
            "see that example.com can be reached from here",
        ),
        (
            "fatal: server certificate verification failed. CAfile: none CRLfile: none",
            "server certificate verification failed. CAfile: none CRLfile: none",
            "SSL_CERT_FILE",
        ),
        (
            "git@h: Permission denied (publickey).\nfatal: Could not read from it.\n\nPlease",
            "git@h: Permission denied (publickey)",
            "ssh-add -l",
        ),
        (
            "No host key is known for h\nHost key verification failed.\nfatal: Could not read it.",
            "Host key verification failed",
            "known_hosts",
        ),
        (
            "ssh: Could not resolve hostname h: Name or service not known\nfatal: Could not read",
            "ssh: Could not resolve hostname h: Name or service not known",
            "can be reached",
        ),
        ("error: invalid path '.GIT/config'", "invalid path '.GIT/config'", "git refuses it"),
        ("fatal: \x1b[31mred\nwhatever", "?[31mred", None),
        ("something without a prefix", "something without a prefix", None),
        ("", "git ended with status 128", None),
    ],
)
def test_reasons_and_what_to_do(said: str, reason: str, hint: str | None) -> None:
    error = explained_failure(RemoteFailedError(128, said), REMOTE, ())
    assert error.message == f"failed to fetch remote https://example.com/app.git: {reason}"
    if hint is None:
        assert error.hint is None
    else:
        assert hint in (error.hint or "")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("fatal: Could not resolve host: h", UnreachableError),
        ("fatal: could not read Username for 'https://h'", AuthenticationError),
        ("fatal: repository 'https://h/x/' not found", AuthenticationError),
        ("error: invalid path '.GIT/config'", ContextError),
        ("something else", ContextError),
    ],
)
def test_servers_that_are_away_or_refuse_have_an_exit_code_of_their_own(
    said: str, kind: type[ImgbuildError]
) -> None:
    error = explained_failure(RemoteFailedError(128, said), REMOTE, ())
    assert type(error) is kind
    assert error.exit_code == (1 if kind is ContextError else 3)


def test_a_secret_that_is_refused_is_not_asked_for_again() -> None:
    said = "fatal: Authentication failed for 'https://me:pass@example.com/app.git/' with s3cret"
    error = explained_failure(RemoteFailedError(128, said), REMOTE, ("s3cret", "s3"))
    assert error.message.endswith("for 'https://example.com/app.git/' with xxxxx")
    assert error.hint is not None
    assert "the secret is valid" in error.hint


def test_what_ended_git() -> None:
    error = explained_failure(GitFailedError(-9, ""), REMOTE, ())
    assert error.message == (
        "failed to checkout remote https://example.com/app.git: git was ended by signal 9"
    )


def test_a_full_disk() -> None:
    said = "fatal: write error: No space left on device\nfatal: index-pack failed"
    assert isinstance(explained_failure(GitFailedError(128, said), REMOTE, ()), DiskFullError)


@pytest.mark.parametrize(
    ("said", "damaged"),
    [
        ("fatal: loose object 01 (stored in objects/0/1) is corrupt", True),
        ("error: object file objects/0/1 is empty", True),
        ("fatal: not a git repository: '/store/git/0'", True),
        ("fatal: 'app' does not appear to be a git repository", False),
        ("fatal: unable to access 'https://h/': Could not resolve host: h", False),
        ("fatal: write error: Broken pipe", False),
    ],
)
def test_damage_of_what_is_kept_is_told_from_trouble_with_the_server(
    said: str, damaged: bool
) -> None:
    assert is_damage(GitFailedError(128, said)) is damaged
