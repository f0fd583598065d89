"""Torch's global settings and the model around a test: one that leaves them changed falsifies every later one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import pytest

from stabilitykit.errors import InvalidError

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel


class _Setting(NamedTuple):
    read: Callable[[Any], object]
    write: Callable[[Any, Any], object]


def _switch(name: str) -> _Setting:
    return _Setting(
        lambda torch: getattr(torch.backends.cuda, f"{name}_enabled")(),
        lambda torch, value: getattr(torch.backends.cuda, f"enable_{name}")(value),
    )


_SETTINGS: Mapping[str, _Setting] = {
    "number of threads": _Setting(lambda t: t.get_num_threads(), lambda t, value: t.set_num_threads(value)),
    "grad mode": _Setting(lambda t: t.is_grad_enabled(), lambda t, value: t.set_grad_enabled(value)),
    "default dtype": _Setting(lambda t: t.get_default_dtype(), lambda t, value: t.set_default_dtype(value)),
    "default device": _Setting(lambda t: t.get_default_device(), lambda t, value: t.set_default_device(value)),
    "deterministic algorithms": _Setting(
        lambda t: (t.are_deterministic_algorithms_enabled(), t.is_deterministic_algorithms_warn_only_enabled()),
        lambda t, value: t.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "float32 matmul precision": _Setting(
        lambda t: t.get_float32_matmul_precision(), lambda t, value: t.set_float32_matmul_precision(value)
    ),
    "flash attention": _switch("flash_sdp"),
    "memory-efficient attention": _switch("mem_efficient_sdp"),
    "math attention": _switch("math_sdp"),
    "cudnn attention": _switch("cudnn_sdp"),
}


_known: WeakKeyDictionary[LoadedModel, Mapping[str, str]] = WeakKeyDictionary()
"""The models of this session as they were when first met: their digests are of then."""


class Watch:
    """The settings as a test found them, taken once torch is there; a test may be what imports it. And its models."""

    def __init__(self) -> None:
        self._before: dict[str, object] | None = None
        self._models: dict[int, LoadedModel] = {}

    @contextmanager
    def around(self) -> Iterator[None]:
        """Run a test in between: a leak fails it, or is a note on what it failed with already."""
        self.start()
        try:
            yield
        except BaseException as error:
            for leak in self.restore():
                error.add_note(leak)
            raise
        if leaks := self.restore():
            pytest.fail("; ".join(leaks), pytrace=False)

    def start(self) -> None:
        """Remember the settings, if torch is imported and they are not remembered yet."""
        torch = sys.modules.get("torch")
        if torch is not None and self._before is None:
            self._before = {name: setting.read(torch) for name, setting in _SETTINGS.items()}

    def meet(self, loaded: LoadedModel | None) -> None:
        """Watch over a model too; InvalidError for one that is not what it was when it was first met."""
        if loaded is None or id(loaded) in self._models:
            return
        from stabilitykit.subjects.fingerprint import fingerprint

        if loaded not in _known:
            _known[loaded] = fingerprint(loaded.model)
        elif part := _changed(loaded):
            raise InvalidError(
                f"{part} of {loaded.spec} is not what it was when it was first measured, and its digest is of then; "
                "load the model again, or adopt it anew"
            )
        self._models[id(loaded)] = loaded

    def restore(self) -> list[str]:
        """Put every changed setting back and return a sentence for each, so that one test's leak stays its own.

        A model cannot be put back: from then on it is refused.
        """
        changed = [(_changed(loaded), loaded.spec) for loaded in self._models.values()]
        leaks = [f"the test left {part} of {spec} changed: load the model anew" for part, spec in changed if part]
        self._models = {}
        return [*leaks, *self._restored()]

    def _restored(self) -> list[str]:
        if self._before is None:
            return []
        torch = sys.modules["torch"]
        leaks: list[str] = []
        for name, before in self._before.items():
            after = _SETTINGS[name].read(torch)
            if after != before:
                _SETTINGS[name].write(torch, before)
                leaks.append(f"the test left torch's {name} at {after}; it was {before}")
        self._before = None
        return leaks


def _changed(loaded: LoadedModel) -> str:
    from stabilitykit.subjects.fingerprint import changed, fingerprint

    return changed(_known[loaded], fingerprint(loaded.model))
