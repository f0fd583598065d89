"""Several devices: each xdist worker measures on one of them, which the controller tells it and a replacement inherits.

The assignment travels in `workerinput` and not in CUDA_VISIBLE_DEVICES: the caller's own list stays as it is, and the
report can name the device.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from stabilitykit.errors import UsageError
from stabilitykit.settings import Settings

PLACE = "stability_place"
"""Key of a worker's input: its device, and what its test ids say of it."""


class Places:
    """The controller's side: which worker is on which device; `apart` where every worker runs all tests."""

    def __init__(self, devices: tuple[str, ...], *, apart: bool) -> None:
        self.devices = devices
        self.apart = apart
        self._of: dict[str, int] = {}
        self._alive: set[str] = set()

    def device(self, worker: str) -> str:
        """Return the device that a worker measures or has measured on; nothing for one that was not told."""
        return self.devices[self._of[worker]] if worker in self._of else ""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give a worker the device that has the fewest: one that replaces a dead worker gets that one's."""
        busy = [self._of[worker] for worker in self._alive]
        index = min(range(len(self.devices)), key=busy.count)
        worker = node.gateway.id
        self._of[worker] = index
        self._alive.add(worker)
        shown = re.sub(r"\W+", "-", self.devices[index])
        node.workerinput[PLACE] = {"device": self.devices[index], "place": shown if self.apart else ""}

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Have a dead worker's device free before its replacement starts."""
        self._alive.discard(node.gateway.id)


def auto(settings: Settings) -> int | None:
    """Return how many workers `-n auto` starts: one for each device; None leaves it to xdist, on the CPU.

    pytest.UsageError for a type of which there is none.
    """
    try:
        devices = _devices(settings)
    except UsageError as error:
        raise pytest.UsageError(f"--stability-{error}") from None
    return None if devices == ("cpu",) else len(devices)


def opened(config: pytest.Config, settings: Settings) -> Places | None:
    """Return who measures where, None with a single device; pytest.UsageError for what could not be told apart."""
    if config.option.collectonly:
        return None
    workers = _workers(config)
    try:
        if not workers:
            _refuse_several(settings)
            return None
        devices = _devices(settings) if config.getoption("numprocesses", None) else settings.devices
        if len(settings.devices) == 1:
            devices = devices[:workers]  # whatever is visible, as many as there is work for
        if len(devices) == 1:
            return None
        apart = config.getoption("dist") == "each"
        _check(devices, workers, settings, apart=apart)
    except UsageError as error:
        raise pytest.UsageError(f"--stability-{error}") from None
    return Places(devices, apart=apart)


def settled(config: pytest.Config, settings: Settings) -> Settings:
    """Return the settings with the device that this process measures on, as the controller told it."""
    told = getattr(config, "workerinput", {}).get(PLACE)
    if told is None:
        return settings
    if ":" in told["device"]:
        from stabilitykit.subjects.hardware import make_current

        make_current(told["device"])
    return replace(settings, **told)


def _devices(settings: Settings) -> tuple[str, ...]:
    """Return what was named; a type alone, such as cuda, is every device of it that is visible."""
    if len(settings.devices) > 1 or settings.device == "cpu" or ":" in settings.device:
        return settings.devices
    from stabilitykit.subjects.hardware import visible

    return visible(settings.device)


def _workers(config: pytest.Config) -> int:
    """Return how many workers xdist starts, 0 without it."""
    specs = config.getoption("tx", None) or ()
    if config.getoption("dist", "no") == "no" or not specs:
        return 0
    from xdist.workermanage import parse_tx_spec_config  # type: ignore[import-untyped]

    return len(parse_tx_spec_config(config))


def _refuse_several(settings: Settings) -> None:
    if len(settings.devices) > 1 and not settings.dry_run:
        raise UsageError(
            f"device names {len(settings.devices)} devices, and one process measures on one; give each a worker with "
            "-n auto (pytest-xdist), or name one device"
        )


def _check(devices: tuple[str, ...], workers: int, settings: Settings, *, apart: bool) -> None:
    """Refuse to leave a device out, to measure on one twice, and to let chance decide which kind a check is of."""
    named = f"device {','.join(devices)}"
    if "device_map" in dict(settings.load_args):
        raise UsageError(f"{named}: each worker has one, and load-arg device_map takes several; leave one of them out")
    if workers < len(devices):
        raise UsageError(f"{named}: {workers} workers leave devices out; start one for each with -n auto")
    if apart and workers > len(devices):
        raise UsageError(f"{named}: with --dist each, {workers} workers would measure the same twice; use -n auto")
    kinds = _kinds(devices)
    if len(set(kinds)) > 1 and not apart:
        told = ", ".join(f"{device} is {kind}" for device, kind in zip(devices, kinds, strict=True))
        raise UsageError(
            f"{named}: these differ ({told}) and chance would decide which of them a check is measured on; "
            "add --dist each to measure everything on each, or name devices of one kind"
        )


def _kinds(devices: tuple[str, ...]) -> list[str]:
    if set(devices) == {"cpu"}:
        return list(devices)  # known without torch
    from stabilitykit.subjects.hardware import kind_of

    return [kind_of(device) for device in devices]
