"""What is not ours is refused, with an error that names it, and left as it is: in a segment's place and in a bell's."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import hypern_realtime_shm as rt
from hypern_realtime_shm import RealtimeHub, Segment
from hypern_realtime_shm.testing import unlink_segment
from tests.procs import Process, eventually

SHM = Path("/dev/shm")
STRANGER = 54321  # a user id that is not ours
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file another user's")


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def place_of(name: str) -> Path:
    """Where the segment of this name lies."""
    Segment.open(name, size="1MiB").close()
    (path,) = (path for path in SHM.iterdir() if path.name.endswith(f".{name}"))
    path.unlink()
    return path


def fingerprint(path: Path) -> tuple[object, ...]:
    """All that could be seen of a change."""
    found = path.lstat()
    kind = stat.S_IFMT(found.st_mode)
    content: object = None
    if kind == stat.S_IFREG:
        content = path.read_bytes()
    elif kind == stat.S_IFLNK:
        target = path.readlink()
        content = (str(target), fingerprint(target) if target.exists() else None)
    elif kind == stat.S_IFDIR:
        content = names_in(path)
    return found.st_ino, found.st_mode, found.st_uid, found.st_nlink, found.st_mtime_ns, content


def file_of(content: bytes, mode: int = 0o600, user: int | None = None) -> Callable[[Path, Path], None]:
    def plant(path: Path, _: Path) -> None:
        path.write_bytes(content)
        path.chmod(mode)
        if user is not None:
            os.chown(path, user, user)

    return plant


def a_link(path: Path, elsewhere: Path) -> None:
    elsewhere.write_bytes(b"precious")
    elsewhere.chmod(0o600)
    path.symlink_to(elsewhere)


def a_dangling_link(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)


def a_directory(path: Path, _: Path) -> None:
    path.mkdir(0o700)
    (path / "something").touch()


def a_fifo(path: Path, _: Path) -> None:
    os.mkfifo(path, 0o600)


def a_socket(path: Path, _: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def a_device(path: Path, _: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))


PLANTED: dict[str, tuple[Callable[[Path, Path], None], type[Exception], str]] = {
    "mode 644": (file_of(b"", 0o644), rt.SegmentRefused, "its mode is 644; it must be 600"),
    "mode 660": (file_of(b"", 0o660), rt.SegmentRefused, "its mode is 660; it must be 600"),
    "mode 602": (file_of(b"", 0o602), rt.SegmentRefused, "its mode is 602; it must be 600"),
    "a link": (a_link, rt.SegmentRefused, "symbolic link"),
    "a dangling link": (a_dangling_link, rt.SegmentRefused, "symbolic link"),
    "a directory": (a_directory, rt.SegmentRefused, "directory"),
    "a FIFO": (a_fifo, rt.SegmentRefused, "no regular file"),
    "a socket": (a_socket, rt.SegmentRefused, "no regular file"),
    "a small file": (file_of(b"a note"), rt.SegmentRefused, "no segment: it has 6 bytes only"),
    "a file": (file_of(os.urandom(100_000)), rt.SegmentRefused, "not a segment of this library"),
    "zeros, and then a file": (
        file_of(bytes(70_000) + b"precious"),
        rt.SegmentRefused,
        "not a segment of this library",
    ),
    "a stranger's file": (file_of(b"", user=STRANGER), rt.SegmentRefused, f"belongs to (user {STRANGER}|another user)"),
    "a device": (a_device, rt.SegmentRefused, "no regular file"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_lies_in_a_segments_place(name: str, tmp_path: Path, planted: str) -> None:
    plant, error, words = PLANTED[planted]
    if planted in ("a stranger's file", "a device") and os.geteuid() != 0:
        pytest.fail("only root can make a device, or a file another user's: run this test as root")
    path, elsewhere = place_of(name), tmp_path / "elsewhere"
    plant(path, elsewhere)
    before, there = fingerprint(path), names_in(tmp_path)
    try:
        for use in (
            lambda: Segment.open(name, size="1MiB"),
            lambda: Segment.attach(name),
            lambda: RealtimeHub(segment=name),
        ):
            with pytest.raises(error, match=words) as raised:
                use()
            assert str(path) in str(raised.value), "it says which file"
        if (
            not stat.S_ISREG(path.lstat().st_mode)
            or path.lstat().st_mode & 0o077
            or path.lstat().st_uid != os.geteuid()
        ):
            with pytest.raises(rt.SegmentRefused):
                unlink_segment(name)
        assert fingerprint(path) == before, "it was changed"
        assert names_in(tmp_path) == there, "something was made through it"
    finally:
        if path.is_dir() and not path.is_symlink():
            (path / "something").unlink()
            path.rmdir()
        else:
            path.unlink()
    # The place is usable again.
    with Segment.open(name, size="1MiB"):
        pass


@pytest.mark.parametrize(("word", "value"), [(1, 1), (1, 99), (2, 0x1234)])
def test_segments_of_others_layouts(name: str, word: int, value: int) -> None:
    """Another version, and another layout of the same version: both are named, ours and theirs."""
    path = place_of(name)
    Segment.open(name, size="1MiB").close()
    content = bytearray(path.read_bytes())
    ours = [int.from_bytes(content[at : at + 8], "little") for at in (8, 16)]
    content[word * 8 : word * 8 + 8] = value.to_bytes(8, "little")
    path.write_bytes(content)
    theirs = [int.from_bytes(content[at : at + 8], "little") for at in (8, 16)]
    before = fingerprint(path)
    said = re.escape(
        f"segment {name!r} has layout version {theirs[0]} ({theirs[1]:016x}), "
        f"this library speaks {ours[0]} ({ours[1]:016x})".replace("'", '"')
    )
    for use in (lambda: Segment.open(name, size="1MiB"), lambda: Segment.attach(name)):
        with pytest.raises(rt.SegmentVersionMismatch, match=said):
            use()
    assert fingerprint(path) == before


NAMES = ["", "a/b", "/", "../x", "a\0b", "\0", ".", "..", "x" * 129, "x" * 300, "ä" * 70]


@pytest.mark.parametrize("bad", NAMES)
def test_names_that_are_none(bad: str) -> None:
    before = names_in(SHM)
    for use in (
        lambda: Segment.open(bad),
        lambda: Segment.attach(bad),
        lambda: RealtimeHub(segment=bad),
        lambda: unlink_segment(bad),
    ):
        with pytest.raises(ValueError, match=r"^(name|segment) is .*; it must be") as raised:
            use()
        assert len(str(raised.value)) < 300
    ours = f"-{os.getpid()}-"
    assert [path for path in names_in(SHM) if path not in before and ours in path] == []


def test_names_that_look_alike_are_apart(name: str) -> None:
    long = "x" * 40
    spelled = [
        f"{name} a",
        f"{name}%20a",
        f"{name}%2520a",
        f"{name}-\u00e4",
        f"{name}-a\u0308",
        f"{name}\na",
        f"{name}☃{long}",
    ]
    opened = [Segment.open(each, size="1MiB") for each in spelled]
    try:
        for number, segment in enumerate(opened):
            RealtimeHub(segment=segment).create_channel(str(number))
        for number, segment in enumerate(opened):
            assert RealtimeHub(segment=segment).channels.list_channels() == [str(number)]
    finally:
        for segment in opened:
            segment.unlink()
            segment.close()


@needs_root
def test_another_user_has_a_world_of_his_own(name: str) -> None:
    """The same name is another segment for another user, and a link to ours does not let him in."""
    with Segment.open(name, size="1MiB") as segment:
        hub = RealtimeHub(segment=segment)
        hub.create_channel("ours")
        path = next(path for path in SHM.iterdir() if path.name.endswith(f".{name}"))
        before = fingerprint(path)
        source = """
        os.setgid(54321); os.setuid(54321)
        theirs = rt.Segment.open(sys.argv[1], size="1MiB")
        say(rt.RealtimeHub(segment=theirs).channels.list_channels())
        theirs.unlink()
        theirs.close()
        place = sys.argv[2].replace(".0.", ".54321.", 1)
        for make in (os.symlink, os.link):
            try:
                make(sys.argv[2], place)
            except PermissionError as error:
                say("not made")
                continue
            try:
                rt.Segment.open(sys.argv[1])
            except rt.SegmentRefused as error:
                say("refused")
            os.unlink(place)
        try:
            os.open(sys.argv[2], os.O_RDONLY)
        except PermissionError:
            say("closed to others")
        """
        with Process(source, name, str(path)) as stranger:
            assert stranger.hear() == "[]"
            assert stranger.hear() == "refused"
            assert stranger.hear() in ("refused", "not made"), "a second name of our file, where the kernel lets him"
            assert stranger.hear() == "closed to others"
            stranger.end()
        assert fingerprint(path) == before


BELL = re.compile(r"@[0-9a-f]{8}\.\d+\.\d+$")


def bells(name: str) -> list[Path]:
    return [path for path in SHM.iterdir() if f".{name}@" in path.name]


@pytest.mark.parametrize("planted", ["a file", "a link", "a dangling link", "a directory", "a FIFO", "a socket"])
def test_what_lies_in_a_bells_place(name: str, tmp_path: Path, planted: str) -> None:
    """The loop that wanted its bell there gets an error that says so; once it is removed everything works."""
    with Segment.open(name, size="1MiB", waiters=64) as segment:
        hub = RealtimeHub(segment=segment)
        hub.create_channel("c")
        sub = hub.channels.subscribe("c", "u")

        async def wait() -> None:
            with pytest.raises(TimeoutError):
                await sub.recv_async(timeout=0.01)

        async def wait_and_look() -> Path:
            await wait()
            (bell,) = bells(name)
            return bell

        seen = asyncio.run(wait_and_look())
        assert BELL.search(seen.name)
        beginning, number, generation = seen.name.rsplit(".", 2)
        assert bells(name) == []
        # Whichever is next.
        places = [
            SHM / f"{beginning}.{bell}.{life}"
            for bell in range(64)
            for life in range(int(generation) - 1, int(generation) + 3)
            if f"{bell}.{life}" != f"{number}.{generation}"
        ]
        elsewhere = tmp_path / "elsewhere"
        plant = PLANTED[planted][0]
        held = []
        for place in places:
            if planted != "a FIFO":
                plant(place, elsewhere)
                continue
            # A FIFO that nobody has open is anybody's to tidy up, and tests beside this one do: it comes there open.
            aside = SHM / f"aside.{name}"
            plant(aside, elsewhere)
            held.append(os.open(aside, os.O_RDWR | os.O_NONBLOCK))
            aside.rename(place)
        before = [fingerprint(place) for place in places]
        try:
            with pytest.raises(rt.SegmentRefused, match=f"{re.escape(beginning)}.* was to be made; remove it"):
                asyncio.run(wait())
            assert hub.publish("c", "x") == 1, "everything else goes on"
            assert sub.recv(timeout=10) == "x"
            assert [fingerprint(place) for place in places] == before
            assert planted != "a dangling link" or not elsewhere.exists()
        finally:
            for place in places:
                if planted == "a directory":
                    (place / "something").unlink()
                    place.rmdir()
                else:
                    place.unlink()
            for descriptor in held:
                os.close(descriptor)
        asyncio.run(wait())
        assert segment.check() == []
        segment.unlink()


@pytest.mark.parametrize("instead", ["nothing", "a link", "a file", "a directory"])
def test_a_bell_that_was_removed_from_under_its_loop(name: str, tmp_path: Path, instead: str) -> None:
    """As those do who clean up behind a user who logged out. Publishers that come later find no bell, or something
    else in its place, which they leave alone; the loop wakes by its own sweep."""
    source = """
    import asyncio
    hub = rt.RealtimeHub(segment=sys.argv[1])
    sub = hub.channels.subscribe("c", "u")
    async def main():
        asyncio.get_running_loop().call_later(0.05, say, "waiting")
        say(await sub.recv_async(timeout=60))
    asyncio.run(main())
    """
    precious = tmp_path / "precious"
    with Segment.open(name, size="1MiB") as segment:
        hub = RealtimeHub(segment=segment)
        hub.create_channel("c")
        with Process(source, name) as receiver:
            assert receiver.hear() == "waiting"
            (bell,) = eventually(lambda: bells(name))
            bell.unlink()
            if instead != "nothing":
                PLANTED[instead][0](bell, precious)
                before = fingerprint(bell)
            hub.publish("c", "heard all the same")
            assert receiver.hear() == "heard all the same"
            if instead != "nothing":
                assert fingerprint(bell) == before
            receiver.end()
        if bell.is_dir() and not bell.is_symlink():
            (bell / "something").unlink()
            bell.rmdir()
        else:
            bell.unlink(missing_ok=True)
        segment.unlink()
