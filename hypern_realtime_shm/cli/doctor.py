"""Can segments live on this machine, and well? doctor."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import secrets
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from hypern_realtime_shm import __version__, _engine
from hypern_realtime_shm._settings import parse_size, variable_size
from hypern_realtime_shm.channels import ChannelManager
from hypern_realtime_shm.inspect import Inspector, segments
from hypern_realtime_shm.segment import DEFAULT_SIZE, Segment

from ._answers import Doctor, Finding
from ._common import ExitCode, json_option, plain, show_json
from ._common import size as in_words

SHM = Path("/dev/shm")
_DOCKERS_DEFAULT = 64 << 20


def _ok(what: str, found: str) -> Finding:
    return {"what": what, "verdict": "ok", "found": found, "advice": None}


def _note(what: str, found: str, advice: str) -> Finding:
    return {"what": what, "verdict": "note", "found": found, "advice": advice}


def _wrong(what: str, found: str, advice: str) -> Finding:
    return {"what": what, "verdict": "wrong", "found": found, "advice": advice}


def _system() -> Finding:
    found = f"{platform.system()} {platform.release()}, {platform.machine()}, Python {platform.python_version()}"
    if platform.system() != "Linux":
        return _wrong("system", found, "the engine needs Linux")
    return _ok("system", found)


def _memory() -> Iterator[Finding]:
    """Is /dev/shm there, in memory, and has it room?"""
    wanted = variable_size("HYPERN_SHM_SIZE") or parse_size(DEFAULT_SIZE)
    kinds = {
        fields[1]: fields[2]
        for line in Path("/proc/mounts").read_text().splitlines()
        if len(fields := line.split()) > 2
    }
    kind = kinds.get(str(SHM))
    if not SHM.is_dir():
        yield _wrong("/dev/shm", "there is none", "mount a tmpfs there")
        return
    stat = os.statvfs(SHM)
    total, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    found = f"{kind or 'no mount of its own'}, {in_words(total)}, {in_words(free)} free"
    if kind != "tmpfs":
        yield _note("/dev/shm", found, "it is no tmpfs: segments may be written to a disk")
    elif free < wanted:
        advice = f"a segment of {in_words(wanted)} does not fit: give more (docker run --shm-size=1g; Kubernetes: an "
        yield _wrong("/dev/shm", found, advice + "emptyDir of medium Memory), or set HYPERN_SHM_SIZE")
    elif total == _DOCKERS_DEFAULT:
        yield _note("/dev/shm", found, "64 MiB is a container's default: --shm-size gives more")
    else:
        yield _ok("/dev/shm", found)


def _locks() -> Finding:
    """Does a second descriptor see the first one's lock, and only as long as it is open?"""
    what = "locks of open file descriptions"
    lock = struct.pack("hhlli", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    try:
        with tempfile.NamedTemporaryFile(dir=SHM) as first, Path(first.name).open("rb+") as second:
            fcntl.fcntl(first, fcntl.F_OFD_SETLK, lock)
            seen = struct.unpack("hhlli", fcntl.fcntl(second, fcntl.F_OFD_GETLK, lock))[0]
    except OSError as error:
        return _wrong(what, str(error), "Linux 3.15 or newer, and a tmpfs, are needed")
    if seen != fcntl.F_WRLCK:
        return _wrong(what, "a lock is not seen", "this kernel, or its sandbox, does not keep them")
    return _ok(what, "they are kept")


def _container() -> Finding:
    marks = [mark for mark in ("/.dockerenv", "/run/.containerenv") if Path(mark).exists()]
    inside = bool(marks) or bool(re.search(r"docker|kubepods|containerd|lxc", Path("/proc/1/cgroup").read_text()))
    if not inside:
        return _ok("container", "none is seen")
    return _note(
        "container", "this is one", "processes of several containers share a segment only with one /dev/shm (--ipc)"
    )


def _logind() -> Finding | None:
    """Does systemd remove a user's segments when he logs out? Only where it runs, and not for system users."""
    if not Path("/run/systemd/system").is_dir() or os.geteuid() < 1000:
        return None
    texts = [path.read_text() for path in _logind_files() if path.is_file()]
    values = re.findall(r"^\s*RemoveIPC\s*=\s*(\w+)", "\n".join(texts), re.MULTILINE)
    if (values[-1].lower() if values else "yes") in {"no", "false", "off", "0"}:
        return _ok("systemd RemoveIPC", "no")
    advice = "a segment goes when this user's last session ends: RemoveIPC=no, a system user, or loginctl enable-linger"
    return _note("systemd RemoveIPC", "yes", advice)


def _logind_files() -> list[Path]:
    parts = (Path(root) / "systemd" for root in ("/usr/lib", "/run", "/etc"))
    return [path for part in parts for path in (part / "logind.conf", *sorted(part.glob("logind.conf.d/*.conf")))]


def _works() -> Finding:
    """A segment from beginning to end."""
    name = f"doctor-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with Segment.open(name, size=1 << 20, max_processes=4) as segment:
            manager = ChannelManager(segment=segment)
            manager.create_channel("doctor")
            subscriber = manager.subscribe("doctor", "doctor")
            manager.publish("doctor", "is it heard?")
            heard = subscriber.try_recv()
            findings = segment.check() + Inspector(name).check()
    except Exception as error:
        return _wrong("a segment", str(error), "see the message")
    finally:
        with contextlib.suppress(OSError):
            _engine.unlink_segment(name)
    if heard != "is it heard?" or findings:
        return _wrong("a segment", "; ".join(findings) or "a message was not heard", "this is a bug: please report it")
    return _ok("a segment", "made, used, checked, removed")


def _others() -> Iterator[Finding]:
    """What lies around."""
    for row in segments():
        what = f"segment {plain(row['name'])}"
        if row["state"] == "abandoned":
            found = f"abandoned, {in_words(row['size'])}"
            yield _note(what, found, "it stays until somebody uses it or `hypern-shm unlink` removes it")
        elif row["state"] == "damaged" or row["state"] == "refused":
            yield _note(what, f"{row['state']}: {plain(row['problem'])}", "`hypern-shm check` says more")
        elif row["layout"] != _engine.LAYOUT_VERSION or row["problem"]:
            yield _note(what, f"in use, layout {row['layout']}", "it is another version's, and shared with no one here")


@click.command(short_help="Can segments live on this machine?")
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Looks whether segments can live here: room, locks, containers, leftovers. Exit code 1 where they cannot."""
    logind = _logind()
    findings = [
        _system(),
        *_memory(),
        _locks(),
        _container(),
        *([logind] if logind is not None else []),
        _works(),
        *_others(),
    ]
    healthy = all(finding["verdict"] != "wrong" for finding in findings)
    answer: Doctor = {
        "version": __version__,
        "layout": _engine.LAYOUT_VERSION,
        "healthy": healthy,
        "findings": findings,
    }
    if as_json:
        show_json(answer)
    else:
        click.echo(f"hypern_realtime_shm {__version__}, layout {_engine.LAYOUT_VERSION}")
        for finding in findings:
            # Words, not colours alone, say how it is.
            mark = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}[finding["verdict"]]
            click.echo(
                f"{click.style(mark, bold=finding['verdict'] == 'wrong')}  {finding['what']}: {finding['found']}"
            )
            if finding["advice"]:
                click.echo(f"       {finding['advice']}")
    context.exit(ExitCode.DONE if healthy else ExitCode.WRONG)


def register(group: click.Group) -> None:
    """Adds the verb."""
    group.add_command(doctor)
