"""The hooks by themselves, without a server."""

from __future__ import annotations

import importlib
import os
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from .harness import segment_files

HOOKS = {"on_starting", "on_reload", "on_exit", "pre_exec", "child_exit", "post_worker_init"}
NAME, UNLINK = "HYPERN_SHM_NAME", "HYPERN_SHM_UNLINK_WHEN_UNUSED"


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """The module. Importing it names a segment in the environment, which must not outlive the test."""
    monkeypatch.setenv(NAME, name)
    monkeypatch.setenv(UNLINK, "1")
    module = importlib.import_module("hypern_realtime_shm.gunicorn")
    monkeypatch.setattr(module, "_held", {})
    return module


def server(**environment: str) -> Any:
    """As much of an arbiter as the hooks look at."""
    lines: list[str] = []

    def log(message: str, *arguments: object, **_: object) -> None:
        lines.append(message % arguments)

    cfg = SimpleNamespace(uid=os.geteuid(), env_orig=environment)
    return SimpleNamespace(cfg=cfg, lines=lines, log=SimpleNamespace(info=log, warning=log))


def test_they_are_all_that_is_set(hooks: ModuleType) -> None:
    config = importlib.import_module("gunicorn.config").Config()
    assert {key for key in vars(hooks) if key in config.settings} == HOOKS
    configuration: dict[str, Any] = {"bind": "127.0.0.1:1", "unrelated": 1}
    hooks.install(configuration)
    assert set(configuration) == HOOKS | {"bind", "unrelated"}
    for key in HOOKS:
        config.set(key, configuration[key])


def test_a_hook_of_ones_own_comes_after_ours_and_is_called_once(
    hooks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def child_exit(_server: Any, worker: Any) -> str:
        called.append(f"own {worker.pid}")
        return "own result"

    monkeypatch.setitem(hooks._HOOKS, "child_exit", lambda _server, _worker: called.append("ours"))
    configuration: dict[str, Any] = {"child_exit": child_exit}
    hooks.install(configuration)
    hooks.install(configuration)
    assert configuration["child_exit"](server(), SimpleNamespace(pid=7)) == "own result"
    assert called == ["ours", "own 7"]


def test_a_hook_may_be_named_by_a_string(hooks: ModuleType) -> None:
    configuration: dict[str, Any] = {"on_reload": f"{__name__}.own_on_reload"}
    hooks.install(configuration)
    importlib.import_module("gunicorn.config").Config().set("on_reload", configuration["on_reload"])
    with pytest.raises(ZeroDivisionError):
        configuration["on_reload"](server())


def own_on_reload(_server: Any) -> None:
    raise ZeroDivisionError


def test_a_hook_with_the_wrong_parameters_is_refused_by_gunicorn_as_ever(hooks: ModuleType) -> None:
    configuration: dict[str, Any] = {"on_starting": lambda _server, _too_many: None}
    hooks.install(configuration)
    with pytest.raises(TypeError, match="arity"):
        importlib.import_module("gunicorn.config").Config().set("on_starting", configuration["on_starting"])


def test_the_name_is_made_once_and_never_changed(hooks: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    hooks.install({})
    assert os.environ[NAME] == name
    monkeypatch.setenv(NAME, "")  # set, but to nothing
    monkeypatch.delenv(UNLINK)
    hooks.install({})
    made = os.environ[NAME]
    assert made.startswith(f"gunicorn-{os.getpid()}-")
    assert os.environ[UNLINK] == "1"
    hooks.install({})
    assert os.environ[NAME] == made
    monkeypatch.setenv(UNLINK, "0")
    hooks.install({})
    assert os.environ[UNLINK] == "0"


def test_the_new_master_of_an_upgrade_inherits_the_name(hooks: ModuleType, name: str) -> None:
    master = server(OTHER="kept")
    hooks.pre_exec(master)
    assert master.cfg.env_orig == {"OTHER": "kept", NAME: name, UNLINK: "1"}


def test_the_master_holds_each_segment_it_was_told_of(
    hooks: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    master = server()
    hooks.on_starting(master)
    hooks.on_reload(master)
    assert len(segment_files(name)) == 1
    assert [name in line for line in master.lines] == [True]
    monkeypatch.setenv(NAME, f"{name}-2")
    hooks.on_reload(master)
    assert len(segment_files(name)) == 2
    for segment in hooks._held.values():
        segment.close()
    assert not segment_files(name)


def test_a_master_of_another_user_than_its_workers_leaves_creation_to_them(hooks: ModuleType, name: str) -> None:
    master = server()
    master.cfg.uid = os.geteuid() + 1
    hooks.on_starting(master)
    assert not segment_files(name)
    assert name in master.lines[0]


def test_trouble_with_a_dead_worker_does_not_end_the_master(hooks: ModuleType, name: str) -> None:
    master = server()
    hooks.on_starting(master)
    hooks._held[name].close()
    hooks.child_exit(master, SimpleNamespace(pid=4711))
    assert "4711" in master.lines[-1]
    assert name in master.lines[-1]
