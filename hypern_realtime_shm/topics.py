"""Topic patterns: ``*`` is exactly one segment, ``#`` is zero or more, anywhere; ``:`` separates."""

from __future__ import annotations

from typing_extensions import Self

from . import _engine
from .segment import resolve


class TopicMatcher(_engine.TopicMatcher):
    """Topic patterns and their subscribers, shared by all workers.

    Args:
        segment: a name, a :class:`Segment`, or None: HYPERN_SHM_NAME, else a private segment.
        namespace: separates worlds inside a segment.
    """

    def __new__(cls, *, segment: str | _engine.Segment | None = None, namespace: str = "") -> Self:
        return super().__new__(cls, resolve(segment, namespace), namespace)

    @classmethod
    def _of_manager(cls, matcher: _engine.TopicMatcher) -> Self:
        return _engine.TopicMatcher.__new__(cls, of=matcher)


__all__ = ["TopicMatcher"]
