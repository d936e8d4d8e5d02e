"""Every worker class, with and without preloading: three workers, one world."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .harness import gunicorn, segment_files

WORKERS = 3
CLIENTS = [f"client-{number:03}" for number in range(200)]

CLASSES = {
    "sync": ("apps:application", []),
    "gthread": ("apps:application", ["--threads", "4"]),
    "gevent": ("apps:application", []),
    "asgi": ("apps:app", []),
    "uvicorn_worker.UvicornWorker": ("apps:app", []),
}


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
@pytest.mark.parametrize("worker_class", CLASSES)
def test_one_world(worker_class: str, preload: bool, name: str, log: Path) -> None:
    app, options = CLASSES[worker_class]
    options = ["--worker-class", worker_class, *options, *(["--preload"] if preload else [])]
    with gunicorn(log, *options, app=app, workers=WORKERS, env={"HYPERN_SHM_NAME": name}) as server:
        workers = server.ready().pids(WORKERS)

        # 200 clients join through whatever worker answers, and no worker is left out.
        taken = server.join(CLIENTS)
        assert set(taken.values()) == workers, "a worker took nobody"

        # Every worker reports the same.
        report = server.one_report(workers)
        assert report["members"] == {client: {"pid": str(pid)} for client, pid in taken.items()}
        assert report["count"] == report["monitored"] == len(CLIENTS)
        assert report["subscribers"] == report["heartbeats"] == CLIENTS
        assert report["channels"] == ["room"]
        assert report["stats"] == ["room", len(CLIENTS), 0, 0]

        # The joins are one diff, taken once, whoever asks.
        diffs = [diff for answers in server.from_each("/diff", workers).values() for diff in answers]
        assert sorted(join["client_id"] for diff in diffs for join in diff["joins"]) == CLIENTS
        assert not any(diff["leaves"] for diff in diffs)

        # Four speak at once, each message through whatever worker answers, each poster waiting for its own.
        def speak(poster: int) -> list[tuple[int, int]]:
            said = []
            for number in range(15):
                answer = server.get("/publish", text=f"{poster}:{number}", spin=0.002)
                said.append((answer["pid"], answer["count"]))
            return said

        with ThreadPoolExecutor(4) as pool:
            said = [each for poster in pool.map(speak, range(4)) for each in poster]
        assert {count for _, count in said} == {len(CLIENTS)}, "the count is that of all workers' subscribers"
        assert len({pid for pid, _ in said}) > 1, "all messages went through one worker"

        received = server.received(workers)
        assert sorted(received) == CLIENTS
        order = received[CLIENTS[0]]
        assert sorted(order) == sorted(f"{poster}:{number}" for poster in range(4) for number in range(15))
        for poster in range(4):
            own = [message for message in order if message.startswith(f"{poster}:")]
            assert own == [f"{poster}:{number}" for number in range(15)]
        assert all(messages == order for messages in received.values()), "somebody saw another order"
        assert server.one_report(workers)["stats"] == ["room", len(CLIENTS), 60, 0]

        # Half of them leave, through whatever worker answers: mostly another one than they came through.
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda client: server.get("/leave", client=client), CLIENTS[::2]))
        report = server.one_report(workers)
        assert sorted(report["members"]) == report["subscribers"] == report["heartbeats"] == CLIENTS[1::2]
        assert server.get("/publish", text="to the rest")["count"] == len(CLIENTS) // 2
        received = server.received(workers)
        reached = {client: messages for client, messages in received.items() if messages}
        assert reached == {client: ["to the rest"] for client in CLIENTS[1::2]}

        assert segment_files(name), "the segment is there"
        server.stop()
    assert not segment_files(name), "the segment goes with the last process"
    assert "Traceback" not in server.output()
