"""The JSON Schemas in docs/schema, made from the types of what hypern-shm prints.

python -m tests.schemas        # writes them; a test says when they are not up to date
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import is_typeddict

from hypern_realtime_shm import _seen, inspect
from hypern_realtime_shm.cli import _answers

WHERE = Path(__file__).parent.parent / "docs" / "schema"

# What each verb prints with --json; tail and top print one a line.
ANSWERS: dict[str, Any] = {
    "ls": _answers.Segments,
    "inspect": inspect.Overview,
    "channels": inspect.Channels,
    "channel": inspect.ChannelDetail,
    "presence": inspect.Members,
    "clients": inspect.Clients,
    "topics": inspect.Topics,
    "processes": inspect.Processes,
    "tail": inspect.MessageRow | _answers.Missed,
    "top": inspect.Snapshot,
    "publish": _answers.Published,
    "check": _answers.Check,
    "reap": _answers.Reaped,
    "unlink": _answers.Unlinked,
    "doctor": _answers.Doctor,
    "size": _answers.Size,
}

# Nothing is printed that is not described, and what is said beside a field describes it.
for _module in (_seen, _answers):
    for _type in vars(_module).values():
        if is_typeddict(_type):
            _type.__pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}


def schema(verb: str) -> dict[str, Any]:
    """The schema of what a verb prints."""
    made = TypeAdapter(ANSWERS[verb]).json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"hypern-shm {verb} --json"}
    return {**head, **{key: value for key, value in made.items() if key != "title"}}


def text(verb: str) -> str:
    """The schema as it is written."""
    return json.dumps(schema(verb), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    WHERE.mkdir(parents=True, exist_ok=True)
    for _verb in ANSWERS:
        (WHERE / f"{_verb}.json").write_text(text(_verb))
