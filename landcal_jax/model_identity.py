"""What tells one external model from another, in every process: the content of all that its function can reach and the user made.

Two models with the same identity are taken for the same one, and the store of runs gives the runs of the one to the other. So a
function is known by the file in which it stands, by its compiled code, and by what that code refers to: globals, helper functions
and what they refer to, captured variables, defaults, modules of the user; all by value. Python, its standard library and installed
packages are known by name only.
"""

import copyreg
import ctypes
import dis
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

LIBRARIES = tuple({str(Path(path)) for name in ("stdlib", "platstdlib", "purelib", "platlib")
                   for path in (sysconfig.get_path(name),) if path} | {str(Path(__file__).parent)})
INSTALLED = {"site-packages", "dist-packages"}


class Identity(NamedTuple):
    """`text` tells a model from another; `unknown` names what it reaches whose content cannot be known, empty if there is none."""

    text: str
    unknown: tuple[str, ...] = ()


def identity_of(run: Any) -> Identity:
    """The identity of a function, of an object that is called, or of an `Executable`, by its content now.

    An object with a method `identity()` says itself what it is, as a text that is the same in every process.
    """
    known, name = _Content(), getattr(run, "__qualname__", type(run).__qualname__)
    try:
        text = known.of(run, name)
    except RecursionError:
        return Identity("", (f"what {name} refers to, a thousand levels deep",))
    return Identity(text, tuple(dict.fromkeys(known.unknown)))


class _Content:
    """SHA256 of values and of all that they refer to. `unknown` collects what has no content that could be told."""

    def __init__(self) -> None:
        self.unknown: list[str] = []
        # By address, with the values themselves: an address is given away again once a value is gone.
        self.seen: dict[int, tuple[str, Any]] = {}
        self.depth = 0

    def of(self, value: Any, where: str) -> str:
        """The content of a value; `where` says in words how it was reached."""
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))):
            return _digest(type(value).__qualname__, repr(value))
        if id(value) not in self.seen:
            # What refers back to it meanwhile is told by the place of the circle.
            self.seen[id(value)] = f"circle to {self.depth}", value
            self.depth += 1
            self.seen[id(value)] = _digest(*self._parts(value, where)), value
            self.depth -= 1
        return self.seen[id(value)][0]

    def _parts(self, value: Any, where: str) -> Iterator[str]:
        if _in_library(value):
            yield f"library {value.__module__} {value.__qualname__}"
            return
        says = _own_identity(value)
        if says is not None:
            self.unknown += says.unknown
            yield f"says {type(value).__qualname__} {says.text}"
            return
        for kinds, parts in (
                (types.ModuleType, self._module), (types.FunctionType, self._function), (types.CodeType, self._code),
                (functools.partial, self._partial), (types.MethodType, self._method), (types.BuiltinFunctionType, self._builtin),
                (type, self._class), (np.ndarray, self._array), ((xr.Dataset, xr.DataArray), self._dataset),
                (Mapping, self._mapping), ((tuple, list), self._sequence), ((set, frozenset), self._set), (ctypes.CDLL, self._library)):
            if isinstance(value, kinds):
                yield from parts(value, where)
                return
        yield from self._object(value, where)

    # ------------------------------------------------------------------ code

    def _function(self, function: types.FunctionType, where: str) -> Iterator[str]:
        library = is_library(function.__code__.co_filename)
        yield f"function {function.__module__ if library else ''} {function.__qualname__}"
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # a variable that has no value yet
                yield "empty"
                continue
            for part, inner in ((name, value), *_attributes(name, value, function.__code__)):
                yield part
                yield self.of(inner, f"{part} in {where}")
        yield self.of((function.__defaults__, function.__kwdefaults__), f"a default of {where}")
        if library:
            return
        yield _source(function)
        yield self.of(vars(function), f"an attribute of {where}")
        yield self.of(function.__code__, where)
        for name, value in self._reached(function):
            yield name
            yield self.of(value, f"{name} in {where}")
        for name, module in self._imported(function):
            yield name
            yield from self._used(module, function.__code__, f"{name} in {where}")

    def _reached(self, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
        """Globals that the code refers to, with the attributes that it may take of modules of the user."""
        for name in _referred(function.__code__, "LOAD_GLOBAL", "LOAD_NAME"):
            if name in function.__globals__:
                value = function.__globals__[name]
                yield name, value
                yield from _attributes(name, value, function.__code__)

    def _imported(self, function: types.FunctionType) -> Iterator[tuple[str, types.ModuleType]]:
        """Modules of the user that are imported when the function runs."""
        for code in _codes(function.__code__):
            steps = list(dis.get_instructions(code))
            for number, step in enumerate(steps):
                if step.opname == "IMPORT_NAME":
                    level, wanted = steps[number - 2].argval, steps[number - 1].argval
                    module = _module_of_user(step.argval, level, function.__globals__.get("__package__") or "", wanted or ())
                    if module is not None:
                        yield step.argval, module

    def _used(self, module: types.ModuleType, code: types.CodeType, where: str) -> Iterator[str]:
        yield self.of(module, where)
        for name, value in _attributes(module.__name__, module, code):
            yield name
            yield self.of(value, f"{name} in {where}")

    def _code(self, code: types.CodeType, where: str) -> Iterator[str]:
        yield f"{code.co_name} {code.co_names} {code.co_varnames} {code.co_flags} {code.co_argcount} {code.co_kwonlyargcount}"
        yield hashlib.sha256(code.co_code).hexdigest()
        for constant in code.co_consts:
            yield self.of(constant, where)

    def _partial(self, value: functools.partial, where: str) -> Iterator[str]:
        yield "partial"
        yield self.of(value.func, where)
        yield self.of((value.args, value.keywords), f"an argument of {where}")

    def _method(self, value: types.MethodType, where: str) -> Iterator[str]:
        yield f"method {value.__func__.__qualname__}"
        yield self.of(value.__func__, where)
        yield self.of(value.__self__, f"the object of {where}")

    def _builtin(self, value: types.BuiltinFunctionType, where: str) -> Iterator[str]:
        yield f"builtin {value.__module__} {value.__qualname__}"
        if value.__self__ is not None and not isinstance(value.__self__, types.ModuleType):
            yield self.of(value.__self__, f"the object of {where}")

    def _class(self, kind: type, where: str) -> Iterator[str]:
        library = _of_library(sys.modules.get(kind.__module__))
        yield f"class {kind.__module__ if library else ''} {kind.__qualname__}"
        if library:
            return
        yield self.of(kind.__bases__, where)
        for name, value in vars(kind).items():
            value = getattr(value, "__func__", value)
            parts = [value.fget, value.fset] if isinstance(value, property) else [value]
            described = name.startswith(("__", "_abc_")) and not isinstance(value, types.FunctionType)
            if not described and not isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
                yield name
                yield self.of(parts, f"{kind.__qualname__}.{name}")

    def _module(self, module: types.ModuleType, where: str) -> Iterator[str]:
        yield f"module {module.__name__}" if _of_library(module) else f"module {_hash_of(getattr(module, '__file__', None))}"

    # ------------------------------------------------------------------ values

    def _array(self, value: np.ndarray, where: str) -> Iterator[str]:
        yield f"{type(value).__qualname__} {value.dtype} {value.shape}"
        yield self.of(value.tolist(), where) if value.dtype.hasobject else hashlib.sha256(np.ascontiguousarray(value)).hexdigest()

    def _dataset(self, value: xr.Dataset | xr.DataArray, where: str) -> Iterator[str]:
        yield f"{type(value).__qualname__} {getattr(value, 'name', None)!r}"
        parts = {str(name): (column.dims, column.values, dict(column.attrs)) for name, column in
                 (value.variables.items() if isinstance(value, xr.Dataset) else [("", value), *value.coords.items()])}
        yield self.of((parts, dict(value.attrs)), where)

    def _mapping(self, value: Mapping, where: str) -> Iterator[str]:
        yield "mapping"
        yield self.of(type(value), where)
        for name, part in value.items():
            yield self.of(name, f"a key of {where}")
            yield self.of(part, f"[{name!r}] of {where}")

    def _sequence(self, value: tuple | list, where: str) -> Iterator[str]:
        yield "sequence"
        yield self.of(type(value), where)
        for part in value:
            yield self.of(part, where)

    def _set(self, value: set | frozenset, where: str) -> Iterator[str]:
        # Its order is another one in every process; parts are told apart without regard to what was seen before.
        yield "set"
        yield self.of(type(value), where)
        known = [_Content() for _ in value]
        yield from sorted(one.of(part, where) for one, part in zip(known, value, strict=True))
        self.unknown += [word for one in known for word in one.unknown]

    def _library(self, value: ctypes.CDLL, where: str) -> Iterator[str]:
        yield f"library {_hash_of(value._name) or value._name}"

    def _object(self, value: Any, where: str) -> Iterator[str]:
        """Any other object: as it is taken apart to be pickled, each part by its content."""
        inner = getattr(value, "__wrapped__", None) or getattr(value, "py_func", None)
        if callable(value) and inner is not None:
            yield f"around {type(value).__qualname__}"
            yield self.of(inner, where)
            return
        if isinstance(value, np.generic | jax.Array) and not jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            yield from self._array(np.asarray(value), where)
            return
        try:
            taken = copyreg.dispatch_table.get(type(value))
            parts = value.__reduce_ex__(4) if taken is None else taken(value)
        except Exception:
            self.unknown.append(f"{where}, a {type(value).__qualname__}")
            yield f"unknown {type(value).__module__} {type(value).__qualname__}"
            return
        if isinstance(parts, str):
            yield f"object {type(value).__module__} {parts}"
            return
        made, arguments, state, listed, items = (*parts[:5], None, None, None)[:5]
        yield self.of(type(value), where)
        yield self.of(made, where)
        for part in (arguments, state, None if listed is None else list(listed), None if items is None else list(items)):
            yield self.of(part, where)


def is_library(path: str | None) -> bool:
    """Whether a file is of Python, of an installed package or of landcal_jax; built-in modules have none."""
    if path is None or str(path).startswith("<frozen"):
        return True
    file = Path(path)
    return bool(INSTALLED & set(file.parts)) or any(file.is_relative_to(folder) for folder in LIBRARIES)


def _of_library(module: types.ModuleType | None) -> bool:
    """The same of a module; a package without `__init__.py` has a folder only."""
    path = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return is_library(path) and getattr(module, "__name__", None) != "__main__"


def _in_library(value: Any) -> bool:
    """Whether it is what an installed module has under its name, so that the name is enough."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module not in sys.modules or not _of_library(sys.modules[module]):
        return False
    found = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _own_identity(value: Any) -> Identity | None:
    """What an object with a method `identity()` says of itself."""
    if isinstance(value, type | types.ModuleType) or not inspect.ismethod(getattr(value, "identity", None)):
        return None
    found = value.identity()
    return found if isinstance(found, Identity) else Identity(str(found))


def _source(function: types.FunctionType) -> str:
    """The file in which a function stands, or its own lines where it was typed in; what is neither is known by its code."""
    found = _hash_of(function.__code__.co_filename)
    if not found:
        try:
            found = inspect.getsource(function)
        except (OSError, TypeError):
            found = ""
    return found


def _hash_of(path: str | None) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""
    except OSError:
        return ""


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Code with that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _referred(code: types.CodeType, *operations: str) -> list[str]:
    """Names that the code takes with these operations, sorted."""
    return sorted({step.argval for part in _codes(code) for step in dis.get_instructions(part) if step.opname in operations})


def _attributes(name: str, value: Any, code: types.CodeType) -> Iterator[tuple[str, Any]]:
    """What the code may take of a module of the user: names that it uses as attributes."""
    if not isinstance(value, types.ModuleType) or _of_library(value):
        return
    for attribute in _referred(code, "LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
        if attribute in vars(value):
            inner = vars(value)[attribute]
            yield f"{name}.{attribute}", inner
            if inner is not value:
                yield from _attributes(f"{name}.{attribute}", inner, code)


def _module_of_user(name: str, level: int, package: str, wanted: tuple[str, ...]) -> types.ModuleType | None:
    """The module of an import statement if it is the user's; it is loaded, as the first run would do."""
    try:
        absolute = importlib.util.resolve_name("." * level + name, package) if level else name
        top = importlib.util.find_spec(absolute.partition(".")[0])
        if top is None or is_library(next(iter(top.submodule_search_locations or ()), top.origin if top.has_location else None)):
            return None
        module = importlib.import_module(absolute)
        for part in wanted if hasattr(module, "__path__") else ():
            if not hasattr(module, part):
                importlib.import_module(f"{absolute}.{part}")
        return module
    except Exception:  # the run will say what is wrong with it, if it comes to it
        return None


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


