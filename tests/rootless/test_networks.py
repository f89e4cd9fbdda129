"""A network of a build's own reaches out, and nothing on this machine's loopback."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.users import PROJECT, Who, as_user, folder_of, interpreter

pytestmark = pytest.mark.rootless

# A machine with one address that is not loopback, a way out that leads nowhere, a name server on
# loopback, and the device that users need: all in namespaces of the test's own.
_MACHINE = """
set -e
mount -t tmpfs none /mnt
mknod -m 666 /mnt/tun c 10 200
mount --bind /mnt/tun /dev/net/tun
printf "nameserver $1\\nsearch lan\\n" > /mnt/resolv.conf
chmod 755 /mnt
mount --bind /mnt/resolv.conf /etc/resolv.conf
sysctl -qw net.ipv4.ip_unprivileged_port_start=0
ip link set lo up
ip addr add 198.51.100.7/32 dev lo
ip link add outside type dummy 2>/dev/null || ip tuntap add outside mode tap
ip addr add 192.0.2.77/24 dev outside
ip link set outside up
ip route add default via 192.0.2.1
shift
exec "$@"
"""

_SERVE = """
import json, os, socket, sys, threading
from pathlib import Path
from tests.support.bench import Bench

def serve(address, kind, text):
    sock = socket.socket(type=kind)
    sock.bind((address, 53 if kind == socket.SOCK_DGRAM else 0))
    def answer():
        if kind == socket.SOCK_DGRAM:
            while True:
                query, client = sock.recvfrom(512)
                asked.append(query.hex())
                # The answer: one address, 192.0.2.99, for the name that was asked for.
                answer = bytes.fromhex("c00c00010001000000050004c0000263")
                sock.sendto(query[:2] + b"\\x81\\x80" + b"\\0\\1\\0\\1" + bytes(4) + query[12:] + answer, client)
        while True:
            connection = sock.accept()[0]
            connection.sendall(text)
            connection.close()
    if kind == socket.SOCK_STREAM:
        sock.listen()
    threading.Thread(target=answer, daemon=True).start()
    return sock.getsockname()[1]

kind, server, place = sys.argv[1:]
asked = []
outside = serve("198.51.100.7", socket.SOCK_STREAM, b"outside")
inside = serve("127.0.0.1", socket.SOCK_STREAM, b"inside")
serve(server, socket.SOCK_DGRAM, b"")
dns = {"pasta": "169.254.1.1", "slirp4netns": "10.0.2.3"}[kind]
with Bench(Path(place)) as bench:
    bench.finish()
    params = {"kind": kind, "program": "/usr/bin/" + kind, "names": server == "127.0.0.53"}
    bench.session.keep_network(bench.session.request("network", params)[1][0])
    def run(command):
        return bench.run(f"exec 2>/dev/null; {command}", network="private")[1]
    loopback = ["127.0.0.1", "10.0.2.2", "10.0.2.3", "192.0.2.1", "192.0.2.77", "169.254.1.1"]
    facts = {
        # Again and again: with pasta of 2023, a connection that is closed at once may hang, before
        # or after what it brings, or bring it twice.
        "outside": run(
            "until busybox timeout 2 nc 198.51.100.7 %d </dev/null; do echo; done" % outside
        ).split(),
        "links": run("ls /sys/class/net").split(),
        "reached": [a for a in loopback if run(f"nc -w 1 {a} {inside} </dev/null")],
    }
    used = dns if server == "127.0.0.53" else server
    mounts = (bench.mount(f"nameserver {used}\\n", "/etc/resolv.conf"),)
    query = "busybox timeout 2 busybox nslookup -type=a a.example; true"
    facts["answer"] = bench.run(query, network="private", mounts=mounts)[1]
    facts["asked"] = any("a".encode().hex() + "07" + b"example".hex() in text for text in asked)
    # All commands share one network: what one serves, another reaches.
    running, reading = bench.start("nc -l -p 5555 -e echo shared", network="private")
    facts["shared"] = run("until nc 127.0.0.1 5555 </dev/null; do sleep 0.05; done")
    running.wait()
    os.close(reading)
print(json.dumps(facts))
"""


@pytest.fixture(params=["pasta", "slirp4netns"])
def helper(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if os.getuid() != 0 or not os.path.exists("/dev/net/tun"):
        pytest.skip("needs root and /dev/net/tun")
    for program in (f"/usr/bin/{name}", "ip", "unshare", "sysctl", "busybox"):
        if shutil.which(program) is None:
            pytest.skip(f"cannot apply: {program} is not installed")
    return name


@pytest.mark.parametrize(
    ("who", "server"),
    [("self", "127.0.0.53"), ("subids", "127.0.0.53"), ("single", "127.0.0.53")]
    + [("self", "198.51.100.7")],
)
def test_the_way_out_leads_out_alone(who: Who, server: str, helper: str, tmp_path: Path) -> None:
    with folder_of(who, tmp_path) as place:
        command = as_user(who, [interpreter(who), "-c", _SERVE, helper, server, str(place)])
        machine = ["unshare", "-mn", "sh", "-c", _MACHINE, "machine", server, *command]
        done = subprocess.run(machine, capture_output=True, text=True, cwd=PROJECT, timeout=100)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert {text.replace("outside", "") for text in facts["outside"]} == {""}
    assert facts["reached"] == []
    assert facts["asked"], "a query for this machine's name server"
    assert "192.0.2.99" in facts["answer"], "an answer, from the address that was asked"
    assert facts["shared"].strip() == "shared"
    assert "lo" in facts["links"]
    assert len(facts["links"]) == 2


_FOREVER = """
import sys, time
from pathlib import Path
from tests.support.bench import Bench
kind, place = sys.argv[1:]
bench = Bench(Path(place))
bench.finish()
params = {"kind": kind, "program": "/usr/bin/" + kind, "names": True}
bench.session.keep_network(bench.session.request("network", params)[1][0])
print("up", flush=True)
time.sleep(1000)
"""


def test_helpers_end_with_a_killed_builder(helper: str, tmp_path: Path) -> None:
    command = [interpreter("self"), "-c", _FOREVER, helper, str(tmp_path)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.read(2) != b"up":
            pytest.skip("cannot apply: no default route for the helper")
        namespace = _namespaces_below(process.pid)
        assert namespace
        assert len(_users_of(namespace)) >= 3, (
            "worker, zygote and helper; pasta has a namespace of its own"
        )
        process.kill()
    deadline = time.monotonic() + 1
    while _users_of(namespace) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _users_of(namespace) == []


def _namespaces_below(pid: int) -> set[int]:
    """Give the PID namespaces of what descends from a process and is in another one than it."""
    own = os.stat(f"/proc/{pid}/ns/pid").st_ino
    found = set()
    for below in _below(pid):
        with contextlib.suppress(OSError):
            found.add(os.stat(f"/proc/{below}/ns/pid").st_ino)
    return found - {own}


def _users_of(namespaces: set[int]) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and os.stat(entry / "ns/pid").st_ino in namespaces:
                found.append(entry.name)
    return found


def _below(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(word) for task in tasks for word in task.read_text().split()]
    return [*children, *(below for child in children for below in _below(child))]
