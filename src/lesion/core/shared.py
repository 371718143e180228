"""A :class:`Shared` state of an object, which lasts as long as anybody holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class Shared(Generic[T]):
    """The first who enters makes the state, the last who leaves undoes it, in whatever order and thread they come and go.

    Args:
        make: Brings an object into the state; what it returns undoes that.
    """

    def __init__(self, make: Callable[[T], Callable[[], None]]) -> None:
        self._make, self._lock = make, RLock()
        self._holders: WeakKeyDictionary[T, tuple[int, Callable[[], None]]] = WeakKeyDictionary()

    @contextmanager
    def __call__(self, of: T) -> Iterator[None]:
        """The object is in the state while the context lasts."""
        with self._lock:
            count, undo = self._holders[of] if of in self._holders else (0, self._make(of))
            self._holders[of] = count + 1, undo
        try:
            yield
        finally:
            with self._lock:
                count, undo = self._holders[of]
                if count > 1:
                    self._holders[of] = count - 1, undo
                else:
                    del self._holders[of]
                    undo()
