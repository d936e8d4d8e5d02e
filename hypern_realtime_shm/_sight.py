"""Keeps looking at whatever segment has a name: for who looks on for longer than a segment may live."""

from __future__ import annotations

import threading

from .errors import SegmentNotFound
from .inspect import Inspector


class Sight:
    """An inspector that follows a name: a server that was stopped and started again has another segment under it.

    It may be made before there is a segment. Threads may share one.

    Args:
        name: the segment's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()  # of this process only; held while a file is opened and mapped
        self._inspector: Inspector | None = None

    def inspector(self) -> Inspector:
        """The inspector of the segment that has the name now; of one whose name was removed, while it is in use.

        Raises:
            SegmentNotFound: there is none.
            SegmentRefused, SegmentVersionMismatch, SegmentCorrupt: as ``Inspector`` does.
        """
        with self._lock:
            held = self._inspector
            if held is not None and held.is_current():
                return held
            self._inspector = None
            try:
                self._inspector = Inspector(self.name)
            except SegmentNotFound:
                if held is None or not held.alive():
                    raise
                self._inspector = held
            return self._inspector


__all__ = ["Sight"]
