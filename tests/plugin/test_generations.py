"""What a run generates, where its recording lies, and which device is another one."""

from pathlib import Path

import pytest

from stabilitykit.plugin import fixtures, generations
from stabilitykit.plugin.fixtures import ModelChoice
from stabilitykit.profile import PROFILES
from stabilitykit.prompts import GENERATION_PROMPTS
from stabilitykit.settings import Settings

STANDARD = PROFILES["standard"].generation


def test_a_quick_look_is_short_and_a_recording_that_is_kept_is_not():
    prompts, tokens = PROFILES["quick"].generation
    assert generations.asked(Settings()) == {"prompts": GENERATION_PROMPTS[:prompts], "tokens": tokens}
    assert generations.asked(Settings(record=Path("A"))) == {"prompts": GENERATION_PROMPTS, "tokens": STANDARD[1]}


def test_the_user_s_own_prompts_and_number_of_tokens_come_first():
    asked = generations.asked(Settings(prompts=("mine",), tokens=7, record=Path("A")))
    assert asked == {"prompts": ("mine",), "tokens": 7}


def test_how_closely_a_recording_looks_is_asked_only_where_it_is_kept():
    chosen = {"record_level": "op", "record_states": "all", "record_step": 3}
    assert generations.kept(Settings(**chosen)) == {}
    assert generations.kept(Settings(record=Path("A"), **chosen)) == {"level": "op", "states": "all", "steps": (3,)}


def test_of_several_models_each_recording_has_a_folder_of_its_own():
    assert generations.place(Path("A"), Settings(), ModelChoice("smollm2", "float32")) == Path("A")
    two = Settings(dtypes=("float32", "bfloat16"))
    assert generations.place(Path("A"), two, ModelChoice("smollm2", "bfloat16")) == Path("A/smollm2-bfloat16")
    here = ModelChoice("smollm2", "float32", "cuda-1")
    assert generations.place(Path("A"), Settings(), here) == Path("A/smollm2-float32-cuda-1")


@pytest.mark.parametrize(
    ("settings", "devices"),
    [
        (Settings(), PROFILES["quick"].devices),
        (Settings(device="cuda:0"), ("cpu-native",)),
        (Settings(against=Path("A")), ("against",)),
        (Settings(device="cuda:0", against=Path("A")), ("against",)),
    ],
)
def test_a_recording_goes_before_settings_and_to_a_gpu_its_cpu_is_another_device(settings, devices):
    assert fixtures._devices(settings) == devices
