"""How a mutant gets into a process: into the functions that live there, or in place of the source at its import."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, FunctionType

from torture.mutants.operators import Mutant, planted

Functions = dict[tuple[str, str, int], list[FunctionType]]


def living(root: Path) -> Functions:
    """Return every function of this process whose source is under root, whatever decorates it."""
    found: Functions = {}
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__.co_filename.startswith(str(root)):
            found.setdefault(_key(one.__code__), []).append(one)
    return found


def replace_code(mutant: Mutant, root: Path, functions: Functions) -> bool:
    """Give the living function the mutant's code; False if no function that lives has it in its body."""
    codes = [code for code in _codes(_compiled(mutant, root)) if code.co_qualname == mutant.function]
    codes = [code for code in codes if code.co_firstlineno <= mutant.line]
    if not mutant.inside or not codes:
        return False
    code = max(codes, key=lambda code: code.co_firstlineno)
    found = functions.get(_key(code), [])
    if any(function.__code__.co_freevars != code.co_freevars for function in found):
        return False
    for function in found:
        function.__code__ = code
    return bool(found)


def replace_source(mutant: Mutant, root: Path) -> Callable[[], bool]:
    """Have this process import the mutant in place of the file, once; return what says whether that has happened."""
    module = mutant.file.removesuffix(".py").replace("/", ".")
    if module in sys.modules:
        raise RuntimeError(f"{module} is imported already, so that its mutant would not be run")

    class Loader(SourceFileLoader):
        def get_code(self, fullname: str) -> CodeType:
            return _compiled(mutant, root)

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            file = str(root / mutant.file)
            return spec_from_file_location(name, file, loader=Loader(name, file)) if name == module else None

    sys.meta_path.insert(0, Finder)  # type: ignore[arg-type]
    return lambda: isinstance(getattr(sys.modules.get(module), "__loader__", None), Loader)


def _compiled(mutant: Mutant, root: Path) -> CodeType:
    path = root / mutant.file
    return compile(planted(path.read_text(encoding="utf-8"), mutant.number), str(path), "exec", dont_inherit=True)


def _codes(code: CodeType) -> list[CodeType]:
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    return inner + [deeper for part in inner for deeper in _codes(part)]


def _key(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno
