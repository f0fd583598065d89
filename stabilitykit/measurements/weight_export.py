"""Weights written out one by one, each to a file of its own, and read back bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from safetensors.torch import load_file, save

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.digest import digest
from stabilitykit.results.atomic import atomic_write
from stabilitykit.results.metric import Metric
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.stored import Checkpoint
from stabilitykit.subjects.weight_roles import chosen

Row = Mapping[str, Any]

LIST = "weights.json"
_LONGEST = 200


@dataclass(frozen=True, eq=False)
class WeightExport(Measurement[Checkpoint]):
    """Write weights to a new folder, one safetensors file a tensor, in their own dtype; read each back and compare.

    `blocks` and `names` choose as for WeightStatistics: by default all of block 0. A file is named after its tensor,
    with what is no letter, digit or one of `_.-~` as %XX; inside, the tensor has its name. `weights.json` lists file,
    dtype, shape and digest of each. Rows: one a tensor. UsageError for a folder that is not empty: nothing is written
    over. Cost: no forward; every chosen byte is written and read once, with memory for two tensors.
    """

    folder: str = ""
    blocks: Sequence[int] | None = (0,)
    names: str = "*"

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("differing_tensors", "tensors", "lower", "tensors whose digest is another when read back"),
        Metric("tensors", "tensors", "neither", "tensors that were written"),
        Metric("megabytes", "MB", "neither", "bytes of these, in millions"),
    )
    needs: ClassVar[type[Measurable]] = Checkpoint
    gate: ClassVar[bool] = True
    requires: ClassVar[Mapping[str, str]] = {"differing_tensors": "<=0"}
    causes: ClassVar[tuple[str, ...]] = ("a disk that does not keep what is written to it",)

    def __post_init__(self) -> None:
        """Refuse to write to nowhere."""
        if not self.folder:
            raise UsageError("folder names the new folder that weights are written to; give one")

    @property
    def title(self) -> str:
        """As any title, with the folder's own name alone: where it lies says who measured, not what."""
        own = Path(self.folder).name
        return super().title if own == self.folder else replace(self, folder=own).title

    def parameters(self) -> dict[str, Any]:
        """Return the fields, the folder by its own name alone."""
        return {**super().parameters(), "folder": Path(self.folder).name}

    def cost(self, subject: Checkpoint) -> Cost:
        """Nothing runs through the model."""
        return Cost()

    def find(self, subject: Checkpoint) -> Finding:
        """Write, read back, list."""
        weights = chosen(subject, self.blocks, self.names)
        folder = _new(Path(self.folder).expanduser())
        rows: list[Row] = []
        with bar(len(weights), "weights", "file") as progress:
            for name, role in weights.items():
                tensor = subject[name].contiguous()
                file = _file(name, {row["file"].lower() for row in rows})
                atomic_write(folder / file, save({name: tensor}))
                wanted, found = digest(tensor), digest(load_file(folder / file)[name])
                rows.append(
                    {
                        "name": name,
                        "layer": role.block,
                        "file": file,
                        "dtype": subject.entries[name].dtype,
                        "shape": list(tensor.shape),
                        "bytes": tensor.numel() * tensor.element_size(),
                        "digest": wanted,
                        "same": wanted == found,
                    }
                )
                progress.update()
        listed = [{key: row[key] for key in ("name", "file", "dtype", "shape", "digest")} for row in rows]
        atomic_write(folder / LIST, json.dumps(listed, indent=1) + "\n")
        differing, size = sum(not row["same"] for row in rows), sum(row["bytes"] for row in rows) / 1e6
        return Finding(
            {"differing_tensors": differing, "tensors": len(rows), "megabytes": size},
            f"{len(rows)} weights, {size:.3g} MB, were written one by one; read back, {differing} of them differ.",
            verdict="differs" if differing else "pass",
            rows=tuple(rows),
        )


def _new(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there and not an empty folder; weights are written to a new one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _file(name: str, taken: set[str]) -> str:
    """Return a file name that is safe everywhere, and another one where only the case of a letter would differ."""
    safe = quote(name, safe="")[:_LONGEST]
    file = f"{safe}.safetensors"
    return file if file.lower() not in taken else f"{safe}.{len(taken)}.safetensors"
