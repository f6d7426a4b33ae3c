"""Silences OpenCV's and tifffile's own messages while Chordate decodes: they do not name the file, its errors do."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

_lock = threading.Lock()
_decoding = 0  # number of threads that decode
_level, _disabled = 0, False  # state of OpenCV's and tifffile's loggers before the first of these threads
# Otherwise, a process that is forked while another thread holds the lock would wait for it forever.
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@contextmanager
def silenced_decoders() -> Iterator[None]:
    """Within the context, OpenCV and tifffile log nothing. Their loggers belong to the whole process, so of several
    threads, the first to enter silences them and the last to leave restores them."""
    global _decoding, _level, _disabled
    logger = logging.getLogger("tifffile")
    with _lock:
        if not _decoding:
            _level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            _disabled, logger.disabled = logger.disabled, True
        _decoding += 1
    try:
        yield
    finally:
        with _lock:
            _decoding -= 1
            if not _decoding:
                cv2.utils.logging.setLogLevel(_level)
                logger.disabled = _disabled
