"""An SSH agent of our own for the keys that --ssh names: it lives as long as the build."""

import subprocess
import tempfile
from pathlib import Path
from shutil import which

from imgbuild.errors import UsageError

_LARGEST_KEY = 100 << 10
_SECONDS = 20
# When this process ends, however it ends, the pipe that `cat` reads from is closed.
_HOLD = '"$1" -D -a "$2" & cat >/dev/null; kill $!; wait $!; rmdir "${2%/*}"'


def check_key(name: str, path: Path) -> None:
    """Raise `UsageError` unless `path` looks like a private key."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_KEY)
    except OSError as error:
        raise UsageError(
            f"--ssh {name}: cannot read {path}: {error.strerror}",
            hint="name the socket of an agent or the file of a private key",
        ) from None
    if b"PRIVATE KEY-----" not in data:
        raise UsageError(
            f"--ssh {name}: failed to parse {path}: ssh: no key found",
            hint="name the file of the private key, not that of the public one",
        )


class KeyAgent:
    """A running agent that holds `keys`; close it when done."""

    def __init__(self, name: str, keys: tuple[Path, ...], search_path: str) -> None:
        self._name = name
        self._search_path = search_path
        self._folder = tempfile.TemporaryDirectory(prefix="imgbuild-ssh-")
        self.socket = Path(self._folder.name) / "agent"
        self._holder: subprocess.Popen[bytes] | None = None
        try:
            self._start()
            for key in keys:
                self._add(key)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the agent and forget its keys."""
        if self._holder is not None:
            self._holder.communicate()
            self._holder = None
        self._folder.cleanup()

    def _start(self) -> None:
        command = ["/bin/sh", "-c", _HOLD, "sh", self._program("ssh-agent"), str(self.socket)]
        self._holder = subprocess.Popen(
            command,
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # An interrupt from the terminal is for this process, which then closes the pipe.
            start_new_session=True,
        )
        assert self._holder.stdout is not None  # noqa: S101  it is a pipe
        # Said once it listens.
        if not self._holder.stdout.readline().startswith(b"SSH_AUTH_SOCK="):
            raise UsageError(f"--ssh {self._name}: ssh-agent did not start", hint="try it by hand")

    def _add(self, key: Path) -> None:
        # Nothing may ask for a passphrase: there is nobody to answer, or it would be another prompt
        # than the user expects.
        done = subprocess.run(
            [self._program("ssh-add"), "-q", str(key.absolute())],
            env={"SSH_AUTH_SOCK": str(self.socket), "SSH_ASKPASS_REQUIRE": "never"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode == 0:
            return
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = said[0] if said else f"ssh-add ended with status {done.returncode}"
        raise UsageError(
            f"--ssh {self._name}: cannot use the key {key}: {''.join(filter(str.isprintable, reason))}",
            hint="a key with a passphrase has to be in an agent (ssh-add), named by its socket; "
            "a key must be readable by its owner alone (chmod 600)",
        )

    def _program(self, name: str) -> str:
        found = which(name, path=self._search_path)
        if found is None:
            raise UsageError(
                f"--ssh {self._name}: there is no {name}, which a key needs",
                hint="install the OpenSSH client, or name the socket of a running agent",
            )
        return found
