"""One operation whose bits are not the same under two settings.

Beside this file lies `operands.safetensors` with the operation's tensors, its arguments, and the digests of what it
gave on both sides, A and B. Run `python reproduce.py a` under A's setting and `python reproduce.py b` under B's; the
letter chooses the addresses and strides of the operands and the number of threads, as they were on that side. It uses
torch and safetensors alone. Exit status: 0 the operation gave A's bits, 1 it gave others, 3 it could not be run.
"""
# ruff: noqa: T201 - this file is a script, copied as it stands: it reports to whoever runs it

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}


def main(arguments: list[str]) -> int:
    """Run the operation and say whose bits came out."""
    side = arguments[0] if arguments else "a"
    try:
        tensors, found = read(Path(__file__).with_name("operands.safetensors"))
        threads = int(os.environ.get("OMP_NUM_THREADS", found["sides"][side]["threads"]))
        given = run(tensors, found, side, threads)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, AttributeError) as error:
        print(f"The operation cannot be run: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        return 3
    tell_environment(found)
    print(f"{found['operation']} of {found['module'] or 'the model'}, {threads} threads, laid out as on side {side}")
    ours = [digest(one) for one in given]
    expected = {name: one["digests"] for name, one in found["sides"].items()}
    for index, (one, mine) in enumerate(zip(given, ours, strict=True)):
        print(f"output {index}: {mine}, A gave {expected['a'][index]}, B gave {expected['b'][index]}")
        if mine != expected["a"][index] and isinstance(one, torch.Tensor):
            tell_difference(one, tensors[f"output.{index}"])
    if ours == expected["a"]:
        print("passes: these are A's bits")
        return 0
    print("fails: these are B's bits" if ours == expected["b"] else "fails: these are neither A's bits nor B's")
    return 1


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors, and what was found."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["found"])  # noqa: SIM118


def run(tensors: dict[str, torch.Tensor], found: dict[str, Any], side: str, threads: int) -> list[Any]:
    """Return what the operation gives: its results, then the operands that it changed."""
    torch.set_num_threads(threads)
    layouts = found["sides"][side]["layouts"]
    inputs = [
        laid(tensors[f"input.{k}"].to(found["devices"][k]), layout["stride"], layout["address"])
        for k, layout in enumerate(layouts)
    ]
    positional, named = found["arguments"]
    with torch.no_grad():
        result = resolved(found["operation"])(
            *(decoded(one, inputs) for one in positional),
            **{name: decoded(one, inputs) for name, one in named.items()},
        )
    return [*flat(result), *(inputs[k] for k in found["changed"])]


def resolved(operation: str) -> Any:
    """Return an operation by its name, such as `aten.mm.default`."""
    found: Any = torch.ops
    for part in operation.split("."):
        found = getattr(found, part)
    return found


def laid(values: torch.Tensor, stride: Sequence[int], address: int) -> torch.Tensor:
    """Return a copy with these strides, whose first element lies at an address of this remainder modulo 64."""
    if not values.numel():
        return values
    compact = values[tuple(slice(0, 1) if step == 0 else slice(None) for step in stride)]
    length = 1 + sum((count - 1) * step for count, step in zip(compact.shape, stride, strict=True))
    size = values.element_size()
    raw = torch.zeros(length * size + 64, dtype=torch.uint8, device=values.device)
    start = (address - raw.data_ptr()) % 64
    line = raw[start : start + length * size].view(values.dtype)
    line.as_strided(compact.shape, stride).copy_(compact)
    return line.as_strided(values.shape, stride)


def decoded(value: Any, inputs: list[torch.Tensor]) -> Any:
    """Return an argument; ValueError for one that a file cannot hold, such as a random generator."""
    if isinstance(value, list):
        return [decoded(one, inputs) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return inputs[inner]
    if kind == "mapping":
        return {name: decoded(one, inputs) for name, one in inner.items()}
    if kind in ("dtype", "layout", "memory_format"):
        return getattr(torch, inner)
    if kind not in ("device", "float", "complex"):
        raise ValueError(f"an argument is a {inner}, which no file holds")
    return {"device": torch.device, "float": float, "complex": complex}[kind](inner)


def flat(value: Any) -> Iterator[Any]:
    """Yield the tensors and numbers of a result, in order."""
    if isinstance(value, list | tuple):
        for one in value:
            yield from flat(one)
    elif value is not None:
        yield value


def digest(value: Any) -> str:
    """Return the first 128 bits of SHA-256 over dtype, shape and bytes; of a number, over its text."""
    if not isinstance(value, torch.Tensor):
        return hashlib.sha256(repr(value).encode()).hexdigest()[:32]
    stream = hashlib.sha256(f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}\n".encode())
    stream.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return stream.hexdigest()[:32]


def tell_difference(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Print how many elements and bits differ from A's, and the farthest pair."""
    kind = INTEGERS[theirs.element_size()]
    x, y = (one.detach().cpu().contiguous().reshape(-1) for one in (ours, theirs))
    patterns = [one.view(kind).long() for one in (x, y)]
    differ = patterns[0] != patterns[1]
    width = 8 * x.element_size()
    bits = sum((one % (1 << width)).bit_count() for one in (patterns[0] ^ patterns[1])[differ].tolist())
    print(f"  {int(differ.sum())} of {x.numel()} elements differ from A's, {bits} bits in all")
    if x.is_floating_point():
        place = int((x.double() - y.double()).abs().nan_to_num(nan=torch.inf).argmax())
        print(f"  the farthest: element {place} is {float(x[place])!r} here and {float(y[place])!r} in A")


def tell_environment(found: dict[str, Any]) -> None:
    """Print what is another one than where the operands were taken."""
    for name, value in environment().items():
        if value != found["environment"].get(name):
            print(f"{name} is {value!r} here and was {found['environment'].get(name)!r}")


def environment() -> dict[str, str]:
    """Return what the last bits depend on, beside the two settings."""
    return {"torch": torch.__version__, "machine": platform.machine()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
