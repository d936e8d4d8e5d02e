"""Forks of every kind: whoever is forked works at once with what it inherited, and nobody's death is hidden.

From threads, from C, by a bare system call, from a fork, with descriptors closed behind our back. What multiprocessing
forks is in test_processes.py, what a fork in the middle of a change leaves in engine/core/tests/forks.rs.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hypern_realtime_shm import RealtimeHub, Segment
from tests.procs import PRELUDE, Process, eventually

# What the sources below begin with: ways to fork, and to hear how a child ended.
FORKS = """
import ctypes, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks in a process with threads: that is what is tested
C = ctypes.PyDLL(None, use_errno=True)  # called with the interpreter held, as an extension module calls it

def fork_by_clone():
    # No handler runs, neither Python's nor pthread's; flags: SIGCHLD.
    pid = C.syscall({"x86_64": 56, "aarch64": 220}[os.uname().machine], 17, 0, 0, 0, 0)
    assert pid >= 0, ctypes.get_errno()
    return pid

FORK = {"os.fork": os.fork, "fork(3)": C.fork, "clone(2)": fork_by_clone}

def in_child(fork, use):
    \"\"\"Runs `use` in a child, which is killed when it hangs; raises where it does not end with 0.\"\"\"
    pid = fork()
    if pid == 0:
        try:
            signal.alarm(30)
            use()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"the child ended with {status}"
"""
WAYS = ["os.fork", "fork(3)", "clone(2)"]
BY_CLONE = platform.machine() in ("x86_64", "aarch64")


def forking(source: str) -> str:
    return FORKS + textwrap.dedent(source)


def in_a_pid_namespace(source: str, *args: str) -> subprocess.Popen[str]:
    """A process that is the first one of a pid namespace of its own, with a /proc of its own."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c"]
    return subprocess.Popen(
        [*command, PRELUDE + forking(source), *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_program_that_only_imported_forks_its_workers(name: str) -> None:
    source = """
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            hub = rt.RealtimeHub(segment=rt.Segment.open(sys.argv[1], size="1MiB"))
            hub.create_channel("room")
            sub = hub.join("room", f"client {number}")
            os.write(1, b"joined" + os.linesep.encode())
            time.sleep(100)
            os._exit(0)
        children.append(pid)
    hear()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    say("killed")
    hear()
    """
    with Process(forking(source), name) as master:
        for _ in range(4):
            assert master.hear() == "joined"
        with Segment.attach(name) as segment:
            hub = RealtimeHub(segment=segment)
            segment.start_keeper()  # we own nothing, and are the last who is left
            assert segment.stats()["processes"] == 5, "each worker one slot, the master none"
            assert hub.presence.count("room") == 4
            master.say("kill")
            assert master.hear() == "killed"
            eventually(lambda: hub.presence.count("room") == 0)
            assert segment.check() == []


def test_forks_from_a_thread_while_others_use_everything(name: str) -> None:
    """Children use each inherited handle at once, whatever the parent's other threads were at.

    By ``os.fork`` alone: after another one beside threads, the lock of CPython's own interpreter may be held by
    nobody. Threads that are no interpreter's are forked so in engine/core/tests/forks.rs.
    """
    rounds = int(os.environ.get("FORKS", "60"))
    source = """
    import asyncio, random, threading
    random.seed(sys.argv[3])
    segment = rt.Segment.open(sys.argv[1], size="8MiB")
    hub = rt.RealtimeHub(segment=segment)
    for room in ("a", "b"):
        hub.create_channel(room)
    sub, pattern, watch = hub.join("a", "parent"), hub.channels.subscribe_pattern("*", "p"), hub.presence.watch("a")
    rx_hub = hub.broadcast
    rx_hub.create("news")
    rx = rx_hub.subscribe("news")
    own = hub.channels.subscribe("b", "listener")
    own.fileno()
    stop = False

    def publish():
        while not stop:
            hub.publish("a", "x"); hub.publish("b", "y"); rx_hub.send("news", "z")

    def receive():
        mine = hub.channels.subscribe("a", "thread")
        while not stop:
            mine.recv(timeout=60); sub.try_recv(); pattern.try_recv(); rx.try_recv(); watch.try_next(); own.drain()

    def wait_in_a_loop():
        async def main():
            mine = hub.channels.subscribe("b", "loop")
            while not stop:
                await mine.recv_async(timeout=60)
        asyncio.run(main())

    def change():
        number = 0
        while not stop:
            number += 1
            hub.presence.track("a", f"client {number % 50}"); hub.presence.untrack("a", f"client {number % 37}")
            hub.heartbeat.register("h"); hub.channels.topic_matcher.subscribe("t:*", "t")
            hub.channels.topic_matcher.match_topic("t:x"); segment.stats(); segment.reap()

    def come_and_go():
        # Attaching and leaving lets go of the interpreter: a fork may come in the middle of it.
        while not stop:
            other = rt.Segment.open(sys.argv[1] + "-2", size="1MiB")
            rt.RealtimeHub(segment=other).create_channel("c")
            other.close()
            rt.Segment.private(size="1MiB").close()

    def use():
        assert hub.publish("a", "from the child") >= 1
        # A channel of its own: in the others the parent's messages come faster than the child looks.
        hub.create_channel("child's")
        mine = hub.channels.subscribe("child's", "child")
        assert hub.publish("child's", "mine") == 2
        assert mine.recv(timeout=20) == "mine"
        async def main():
            asyncio.get_running_loop().call_later(0.01, hub.publish, "child's", "mine, too")
            return await mine.recv_async(timeout=20)
        assert asyncio.run(main()) == "mine, too"
        sub.drain(); pattern.drain(); rx.drain(); watch.try_next(); own.drain(); own.fileno()
        hub.presence.track("a", "child"); hub.presence.list("a"); hub.presence.flush_diff("a")
        hub.heartbeat.register("child"); hub.heartbeat.check_timeouts()
        hub.channels.topic_matcher.subscribe("t:*", "child")
        assert "child" in hub.channels.topic_matcher.match_topic("t:x")
        rx_hub.send("news", "from the child")
        rt.RealtimeHub(segment=rt.Segment.open(sys.argv[1] + "-2", size="1MiB")).create_channel("c")
        assert segment.stats()["processes"] >= 2
        segment.close()

    threads = [threading.Thread(target=run) for run in (publish, receive, wait_in_a_loop, change, come_and_go)]
    for thread in threads:
        thread.start()
    forks = 0
    def fork_often():
        global forks
        for _ in range(int(sys.argv[2])):
            time.sleep(random.random() * 0.01)
            in_child(os.fork, use)
            forks += 1
    forker = threading.Thread(target=fork_often)
    start = time.monotonic()
    forker.start()
    forker.join()
    stop = True
    while any(thread.is_alive() for thread in threads):
        hub.publish("a", "the end"); hub.publish("b", "the end")
    segment.reap()
    say(forks, f"{time.monotonic() - start:.1f}", segment.stats()["processes"], *segment.check())
    """
    seed = os.environ["TEST_SEED"]
    try:
        with Process(forking(source), name, str(rounds), seed) as process:
            forks, seconds, processes, *unsound = process.hear().split(" ")
            print(f"{forks} forks from a thread in {seconds} s, with five others at work")
            assert (int(forks), int(processes), unsound) == (rounds, 1, [])
            process.end()
    finally:
        Segment.open(f"{name}-2", size="1MiB").unlink()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("private", [False, True])
def test_handles_work_in_a_child_that_python_knows_nothing_of(name: str, way: str, private: bool) -> None:
    if way == "clone(2)" and not BY_CLONE:
        pytest.fail(f"the number of the system call clone on {platform.machine()} is to be added to FORKS")
    source = """
    segment = rt.Segment.private() if sys.argv[3] == "private" else rt.Segment.open(sys.argv[1], size="2MiB")
    hub = rt.RealtimeHub(segment=segment)
    hub.create_channel("room")
    sub, watch = hub.join("room", "parent"), hub.presence.watch("room")
    hub.publish("room", "before")

    def use():
        assert sub.drain() == ["before"]
        joined = hub.join("room", "child")
        assert hub.publish("room", "from the child") == 3
        assert joined.recv(timeout=10) == sub.recv(timeout=10) == "from the child"
        assert segment.stats()["processes"] == 2
        # A child of the child, too.
        def again():
            assert hub.publish("room", "from the grandchild") == 3
            assert joined.drain() == sub.drain() == ["from the grandchild"]
            assert segment.stats()["processes"] == 3
        in_child(FORK[sys.argv[2]], again)
    in_child(FORK[sys.argv[2]], use)
    assert sub.drain() == ["before", "from the child", "from the grandchild"]
    segment.reap()
    assert [info.client_id for info in hub.get_presence("room")] == ["parent"]
    assert hub.publish("room", "x") == 1
    assert segment.stats()["processes"] == 1 and segment.check() == []
    say("done")
    """
    with Process(forking(source), name, way, "private" if private else "named") as process:
        assert process.hear() == "done"
        process.end()


@pytest.mark.parametrize("way", WAYS)
def test_threads_of_a_child_take_one_slot(name: str, way: str) -> None:
    source = """
    import threading
    segment = rt.Segment.open(sys.argv[1], size="2MiB")
    hub = rt.RealtimeHub(segment=segment)
    hub.create_channel("room")
    for _ in range(10):
        def use():
            barrier = threading.Barrier(8)
            def publish():
                barrier.wait()
                hub.publish("room", "x")
                segment.reap()
            threads = [threading.Thread(target=publish) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert segment.stats()["processes"] == 2, "the parent's slot and the child's"
            # One descriptor of the segment is open, and it is not the parent's: that one holds the parent's lock.
            found = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                     if os.path.exists(f"/proc/self/fd/{fd}")]
            assert sum(path.endswith(sys.argv[1]) for path in found) == 1, found
        in_child(FORK[sys.argv[2]], use)
        segment.reap()
    say("done")
    """
    with Process(forking(source), name, way) as process:
        assert process.hear() == "done"
        process.end()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("namespace", ["the same pid namespace", "another pid namespace"])
def test_an_idle_helper_hides_no_death(segment: Segment, way: str, namespace: str) -> None:
    """A helper that never uses the library lives on; its parent's members leave. Seen from where the parent's pid can
    be looked up, and from where only the kernel's lock tells."""
    if way == "clone(2)" and namespace == "another pid namespace":
        # No handler runs in such a child, so the lock goes with it: see below.
        check_an_idle_clone_is_let_go_of(segment)
        return
    source = """
    worker = os.fork()
    if worker == 0:
        hub = rt.RealtimeHub(segment=sys.argv[1])
        hub.create_channel("room")
        hub.presence.track("room", "alice")
        helper = FORK[sys.argv[2]]()
        if helper == 0:
            time.sleep(100)
            os._exit(0)
        say(helper)
        time.sleep(100)
    hear()
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    say("killed")
    hear()
    """
    hub = RealtimeHub(segment=segment)
    hub.presence.track("room", "bob")
    assert segment.name is not None
    if namespace == "the same pid namespace":
        with Process(forking(source), segment.name, way) as process:
            helper = int(process.hear())
            try:
                assert hub.presence.count("room") == 2
                process.say("kill")
                assert process.hear() == "killed"
                os.kill(helper, 0)
                eventually(lambda: hub.presence.count("room") == 1)
            finally:
                os.kill(helper, signal.SIGKILL)
        return
    with in_a_pid_namespace(source, segment.name, way) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline().strip(), "unshare needs root, and a kernel with pid namespaces"
        assert hub.presence.count("room") == 2
        assert segment.reap() == 0, "alive, though its pid means nothing here"
        process.stdin.write("kill\n")
        process.stdin.flush()
        assert process.stdout.readline().strip() == "killed"
        killed = time.monotonic()
        eventually(lambda: hub.presence.count("room") == 1)
        print(f"left after {time.monotonic() - killed:.3f} s")
        process.stdin.close()
        process.kill()


def check_an_idle_clone_is_let_go_of(segment: Segment) -> None:
    """A raw clone shares its parent's lock until it first uses the library or ends: seen from another pid namespace
    its dead parent is alive that long, and not longer."""
    source = """
    worker = os.fork()
    if worker == 0:
        hub = rt.RealtimeHub(segment=sys.argv[1])
        hub.create_channel("room")
        hub.presence.track("room", "alice")
        helper = fork_by_clone()
        if helper == 0:
            hear()
            hub.publish("room", "the first use")
            say("used")
            time.sleep(100)
            os._exit(0)
        say(helper)
        time.sleep(100)
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.01)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    say("killed")
    time.sleep(100)
    """
    hub = RealtimeHub(segment=segment)
    hub.create_channel("room")
    hub.presence.track("room", "bob")
    assert segment.name is not None
    sign = Path(f"/tmp/{segment.name}")
    try:
        with in_a_pid_namespace(source, segment.name, str(sign)) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline().strip(), "unshare needs root, and a kernel with pid namespaces"
            sign.touch()
            assert process.stdout.readline().strip() == "killed"
            process.stdin.write("use\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == "used"
            eventually(lambda: hub.presence.count("room") == 1)
            process.stdin.close()
            process.kill()
    finally:
        sign.unlink(missing_ok=True)


def test_a_fork_of_a_fork_stands_for_itself(segment: Segment) -> None:
    """Three generations with members of their own; the middle one is killed, and only its members leave."""
    source = """
    hub = rt.RealtimeHub(segment=sys.argv[1])
    hub.create_channel("room")
    sub = hub.join("room", "generation 0")
    pids = [os.getpid()]
    for generation in (1, 2):
        if os.fork() == 0:
            mine = hub.join("room", f"generation {generation}")
            pids.append(os.getpid())
        else:
            if generation == 1:
                hear()
            time.sleep(100)
    say(*pids)
    time.sleep(100)
    """
    hub = RealtimeHub(segment=segment)
    assert segment.name is not None
    segment.start_keeper()  # we own nothing, and are the last who is left

    def present() -> list[str]:
        return sorted(info.client_id for info in hub.get_presence("room"))

    with Process(forking(source), segment.name) as process:
        pids = [int(word) for word in process.hear().split()]
        try:
            assert present() == ["generation 0", "generation 1", "generation 2"]
            assert segment.stats()["processes"] == 4
            os.kill(pids[1], signal.SIGKILL)
            eventually(lambda: present() == ["generation 0", "generation 2"])
            # The one handle that each has opened by itself; what it inherited is its parent's.
            assert hub.publish("room", "x") == 2
            process.kill()
            eventually(lambda: present() == ["generation 2"])
        finally:
            os.kill(pids[2], signal.SIGKILL)
    eventually(lambda: present() == [])


def test_a_program_that_is_executed_inherits_nothing(segment: Segment, tmp_path: Path) -> None:
    """Whatever subprocess is told about descriptors, none of ours goes into another program."""
    hub = RealtimeHub(segment=segment)
    hub.create_channel("c")
    private = RealtimeHub(segment=Segment.private())
    private.create_channel("c")
    subs = [each.channels.subscribe("c", "u") for each in (hub, private)]
    assert all(sub.fileno() >= 0 for sub in subs)
    hub.publish("c", "x")
    said = tmp_path / "said"
    listing = f"ls -l /proc/self/fd > {said} 2>&1"
    for close_fds in (True, False):
        subprocess.run(["sh", "-c", listing], close_fds=close_fds, check=True, timeout=60)
        assert "hypern-rt" not in said.read_text(), said.read_text()
    for sub in subs:
        sub.close()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_program_started_without_standard_descriptors(name: str, tmp_path: Path, closed: str) -> None:
    """Nothing of ours becomes descriptor 0, 1 or 2, where anybody's output would be written into it."""
    said = tmp_path / "said"
    source = """
    import asyncio, logging
    told = []
    listener = logging.Handler()
    listener.emit = told.append
    logging.getLogger("hypern_realtime_shm").addHandler(listener)
    try:
        segment = rt.Segment.open(sys.argv[1], size="1MiB")
        hubs = [rt.RealtimeHub(segment=segment), rt.RealtimeHub(segment=rt.Segment.private(size="1MiB"))]
        def use(who):
            subs = []
            for hub in hubs:
                hub.create_channel("c")
                sub = hub.channels.subscribe("c", "u")
                sub.fileno()
                async def main():
                    hub.publish("c", "x")
                    return await sub.recv_async(timeout=20)
                assert asyncio.run(main()) == "x"
                subs.append(sub)
            for fd in (0, 1, 2):
                leads_to = os.readlink(f"/proc/self/fd/{fd}") if os.path.exists(f"/proc/self/fd/{fd}") else ""
                assert "hypern-rt" not in leads_to and "memfd" not in leads_to, (who, fd, leads_to)
        use("the parent")
        in_child(os.fork, lambda: use("the child"))
        # A thread that waits for the interpreter logs that child's death in either segment. A clone made while it
        # does would inherit its place in the queue, which CPython clears in forks that it knows of, and wait for ever.
        while sum("died" in record.getMessage() for record in told) < 2:
            time.sleep(0.01)
        time.sleep(0.1)
        in_child(fork_by_clone, lambda: use("the clone"))
        for fd in (1, 2):
            try:
                os.write(fd, b"whoever writes here writes nothing into a segment" * 100)
            except OSError:
                pass
        segment.reap()
        result = repr(segment.check())
    except BaseException:
        import traceback
        result = traceback.format_exc()
    with open(sys.argv[2], "w") as said:
        said.write(result)
    """
    script = tmp_path / "program.py"
    script.write_text(PRELUDE + forking(source))
    # A null device takes what the others may say.
    command = f'exec "$0" "$@" {closed}'
    subprocess.run(
        ["sh", "-c", command, sys.executable, str(script), name, str(said)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=100,
        check=False,
    )
    assert said.read_text() == "[]"


DAEMON = """
import fcntl, json
segment = rt.Segment.open(sys.argv[1], size="2MiB")
private = rt.Segment.private(size="1MiB")
hub, alone = rt.RealtimeHub(segment=segment), rt.RealtimeHub(segment=private)
hub.create_channel("c"); alone.create_channel("c")
hub.presence.track("c", "daemon")
sub, heard_alone = hub.channels.subscribe("c", "u"), alone.channels.subscribe("c", "u")
sub.fileno()
MOUTH = 900
os.dup2(1, MOUTH)
def tell(**words): os.write(MOUTH, (json.dumps(words) + "\\n").encode())
def attempt(use):
    try:
        return use()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
def daemonise():
    # As the well-known recipes do it: two forks, a session, and every descriptor closed.
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
if sys.argv[2] == "forked":
    if os.fork():
        os.wait(); hear(); os._exit(0)
    daemonise()
os.closerange(0, MOUTH)
# Whoever opens files now gets our numbers.
files = [os.open(os.path.join(sys.argv[3], f"{i}"), os.O_RDWR | os.O_CREAT) for i in range(24)]
for file in files:
    os.write(file, b"a stranger's")
"""


@pytest.mark.parametrize("how", ["in place", "forked"])
def test_a_daemoniser_that_closes_every_descriptor(name: str, tmp_path: Path, how: str) -> None:
    """The closed descriptor is noticed, opened again by name, and the slot's lock taken again; strangers' files that
    got our numbers are neither written nor locked nor closed; where there is no name, an error says what happened."""
    source = (
        FORKS
        + DAEMON
        + """
hub.presence.track("c", "after")
fresh = hub.channels.subscribe("c", "v")
heard = hub.publish("c", "x")
got = attempt(lambda: fresh.recv(timeout=10))
first = attempt(segment.reap)
inodes = {os.fstat(file).st_ino for file in files}
with open("/proc/locks") as lines:
    locked = [line for line in lines if int(line.split()[5].rpartition(":")[2]) in inodes]
tell(pid=os.getpid(), heard=heard, got=got, reap=first, processes=segment.stats()["processes"], check=segment.check(),
     private=attempt(lambda: alone.publish("c", "x")), private_reap=str(attempt(private.reap)), locked=locked,
     closed=attempt(private.close))
os.read(files[0], 0)
# Told to go on by the file that appears.
while not os.path.exists(os.path.join(sys.argv[3], "go")):
    time.sleep(0.01)
ended = attempt(segment.close)
content = {str(attempt(lambda: os.pread(file, 100, 0))) for file in files}
tell(ended=ended, content=sorted(content), closed=segment.closed)
os._exit(0)
"""
    )
    with Process(source, name, how, str(tmp_path)) as process:
        words = eventually(process.hear)
        told = json.loads(words)
        pid = told["pid"]
        parents = 1 if how == "forked" else 0
        assert (told["heard"], told["got"], told["reap"]) == (2, "x", 0)
        assert (told["processes"], told["check"], told["locked"]) == (1 + parents, [], [])
        if parents:
            assert re.search("OSError.*something in this process closed", told["private"]), told
        else:
            assert (told["private"], told["closed"]) == (1, None), "what is mapped is used as ever"
            assert re.search("OSError.*something in this process closed", told["private_reap"]), told
        with Segment.attach(name) as segment:
            # We got another slot than the daemon's, whose lock is held again.
            assert segment.stats()["processes"] == 2 + parents
            assert segment.reap() == 0
            path = next(path for path in Path("/dev/shm").iterdir() if path.name.endswith(f".{name}"))
            inode = path.stat().st_ino
            locks = [line.split() for line in Path("/proc/locks").read_text().splitlines() if f":{inode} " in line]
            ours = {(words[-2], words[-1]) for words in locks if words[1] == "OFDLCK"}
            assert len(ours) == 2 + parents, f"one byte each, and no two of one: {locks}"
            (tmp_path / "go").touch()
            told = json.loads(process.hear())
            assert told == {"ended": None, "content": ['b"a stranger\'s"'], "closed": True}
            hub = RealtimeHub(segment=segment)
            assert sorted(info.client_id for info in hub.get_presence("c")) == ["after", "daemon"]
            eventually(lambda: not Path(f"/proc/{pid}/task").exists() or pid == process.popen.pid)
            segment.reap()
            assert segment.check() == []


def test_a_daemoniser_of_another_pid_namespace_never_shares_its_slot(segment: Segment, tmp_path: Path) -> None:
    """Without its descriptors it looks dead from where its pid cannot be seen, and its slot may be another's before it
    notices: then it is closed, with an error, and not one of two owners."""
    source = (
        DAEMON
        + """
tell(ready=True)
os.kill(worker, signal.SIGSTOP)
tell(reap=str(attempt(segment.reap)), publish=str(attempt(lambda: hub.publish("c", "x"))), closed=segment.closed)
os._exit(0)
"""
    )
    # The first of its namespace cannot be stopped from inside: the worker is its child.
    master = """
worker = os.fork()
if worker:
    assert os.WIFSTOPPED(os.waitpid(worker, os.WUNTRACED)[1])
    say("stopped")
    hear()
    os.kill(worker, signal.SIGCONT)
    os.waitpid(worker, 0)
    say("ended")
    os._exit(0)
worker = os.getpid()
"""
    hub = RealtimeHub(segment=segment)
    hub.create_channel("c")
    assert segment.name is not None
    with in_a_pid_namespace(master + source, segment.name, "in place", str(tmp_path)) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        words = [process.stdout.readline().strip() for _ in range(2)]
        assert words == ['{"ready": true}', "stopped"], words
        eventually(lambda: segment.reap() == 0 and hub.presence.count("c") == 0 and segment.stats()["processes"] == 1)
        # Somebody takes the slot that became free.
        with Process("segment = rt.Segment.attach(sys.argv[1]); say('attached'); hear()", segment.name) as other:
            assert other.hear() == "attached"
            process.stdin.write("go on\n")
            process.stdin.flush()
            told = json.loads(process.stdout.readline())
            assert told == {
                "reap": "SegmentClosed: the segment is closed",
                "publish": "SegmentClosed: the segment is closed",
                "closed": True,
            }
            assert process.stdout.readline().strip() == "ended"
            assert segment.stats()["processes"] == 2
            assert segment.reap() == 0, "the other one is alive"
        process.stdin.close()
        assert process.wait(30) == 0
