"""Records SmolLM2 in a process of its own, under whatever variables it was started with."""

import sys
from pathlib import Path

import stabilitykit as sk
from stabilitykit.prompts import GENERATION_PROMPTS
from stabilitykit.subjects import launch
from stabilitykit.traces.record import record
from stabilitykit.traces.store import write_recording

if __name__ == "__main__":
    place = Path(sys.argv[1])
    asked = launch.request_of(place)
    loaded = sk.load("smollm2", dtype=asked["dtype"])
    made = record(loaded, GENERATION_PROMPTS[: asked["prompts"]], asked["tokens"], states="all")
    write_recording(made, place / "recording")
    launch.answered(place, {"probe": made.probe})
