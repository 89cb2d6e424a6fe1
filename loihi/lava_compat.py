"""Makes the installed Lava wheels importable, and says what to do where they are absent.

lava-nc 0.10.0 and lava-dl 0.6.0 declare Python 3.10 and numpy 1; their repositories are archived,
so nothing newer will come. Installed past those pins, some things stop them on a current Python,
and each is put right here while the module is imported, never in the wheel's files:

- ``lava.magma.compiler.var_model`` has dataclass fields whose defaults are dataclass instances.
  Python 3.11 refuses unhashable defaults. They become ``field(default_factory=...)``.
- ``lava.lib.dl.slayer`` imports its ``object_detection`` at once, and that torchvision and OpenCV,
  which nothing here uses. Where either is absent, a stub takes its place.
- ``lava.lib.dl.netx`` takes ``int()`` of an input layer's weight. Intel's own ``mnist.net`` stores
  it with shape (1,), which numpy 2 refuses. Such a value is handed over without its axis.
- ``lava.magma.core.process.ports.ports`` calls ``np.reshape(newshape=...)`` where a network
  flattens an image. numpy 2.1 renamed that argument and 2.4 dropped the old name; it is renamed.
- ``lava.proc.conv`` keeps padding and the like as int8, in which numpy 2 also computes: an image
  of more than 127 rows or columns overflows. They are handed over as Python's integers.

On Python 3.10 with the official pins none of these applies. One thing stops Lava on any Python:

- ``lava.magma.runtime.message_infrastructure.multiprocessing`` sets the start method ``fork``: an
  error where anything in the process has used multiprocessing before. Where the method is ``fork``
  already, it may be set again; another one that was chosen stays an error.

``install(netx_only=True)`` is for a process that only runs files in Lava: netx uses one function
of slayer, which otherwise brings torch, matplotlib and seconds of start. That function is taken
from the wheel's own source, and the rest of slayer is left out, as is netx's sequential_modules.

Importing this module imports nothing but the standard library.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, Literal

from loihi.errors import PumiceError

VERSION_NC = "0.10.0"
VERSION_DL = "0.6.0"

#: What lava needs at run time that pumice does not need itself; `--no-deps` leaves it out.
_LIGHT_NEEDS = ("asteval", "networkx")

_SLAYER = "lava.lib.dl.slayer"
_OBJECT_DETECTION = f"{_SLAYER}.object_detection"
_VAR_MODEL = "lava.magma.compiler.var_model"
_NETX_UTILS = "lava.lib.dl.netx.utils"
_CONV_UTILS = "lava.proc.conv.utils"
_PORTS = "lava.magma.core.process.ports.ports"
_MESSAGES = "lava.magma.runtime.message_infrastructure.multiprocessing"
_RF = f"{_SLAYER}.neuron.rf"
#: The file of netx that imports torch; Lava runs it under this bare name as well.
_SEQUENTIAL = "sequential_modules"
#: Modules that `netx_only` leaves empty; `rf` is cut down to the one function that netx calls.
_LEFT_OUT = (_SLAYER, f"{_SLAYER}.neuron", f"lava.lib.dl.netx.{_SEQUENTIAL}")


@dataclass(frozen=True)
class LavaStatus:
    """Which Lava is installed, and whether its wheels run as they are or through the hook."""

    installed: bool
    version_nc: str | None
    version_dl: str | None
    lane: Literal["official", "import hook"] | None
    #: One line: what to do; empty when there is nothing to do.
    advice: str


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _needs_hook() -> bool:
    return sys.version_info >= (3, 11)


def _numpy_2(minor: int = 0) -> bool:
    """Whether numpy 2.``minor`` or later is installed."""
    numbers = re.match(r"(\d+)\.(\d+)", _version("numpy") or "")
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (2, minor)


def install_command() -> str:
    """The pip command that installs Lava for the running Python."""
    wheels = f"lava-nc=={VERSION_NC} lava-dl=={VERSION_DL}"
    if _needs_hook():
        return (
            f"pip install --no-deps --ignore-requires-python {wheels}"
            f" && pip install {' '.join(_LIGHT_NEEDS)}"
        )
    return f"pip install {wheels}"


def status() -> LavaStatus:
    """What is installed, read from the packages' metadata: Lava itself is not imported."""
    nc, dl = _version("lava-nc"), _version("lava-dl")
    missing = [name for name, v in (("lava-nc", nc), ("lava-dl", dl)) if v is None]
    if not missing:
        missing = [name for name in _LIGHT_NEEDS if _version(name) is None]
    if missing:
        advice = f"{' and '.join(missing)} not installed: {install_command()}"
        return LavaStatus(False, nc, dl, None, advice)
    advice = ""
    if (nc, dl) != (VERSION_NC, VERSION_DL):
        advice = (
            f"found lava-nc {nc} and lava-dl {dl}, proved against {VERSION_NC} and {VERSION_DL}: "
            f"{install_command()}"
        )
    return LavaStatus(True, nc, dl, "import hook" if _needs_hook() else "official", advice)


def require() -> LavaStatus:
    """The status, or one clear line when Lava cannot run here."""
    found = status()
    if not found.installed:
        raise PumiceError(f"Lava is needed for this: {found.advice}")
    return found


def install(netx_only: bool | None = None) -> None:
    """Put the import hook in place; call it before the first import of anything in Lava.

    Calling it again changes nothing. ``netx_only=True`` leaves slayer (and torch) out of this
    process for good; ``False`` asks for slayer, and is refused where it was left out already;
    ``None`` takes what an earlier call chose.
    """
    hook = next((f for f in sys.meta_path if isinstance(f, _LavaFinder)), None)
    if hook is None:
        hook = _LavaFinder()
        sys.meta_path.insert(0, hook)
    if netx_only is None or netx_only == hook.netx_only:
        return
    if not netx_only and _SLAYER in sys.modules:
        raise PumiceError(
            "this process was set up for netx only, without lava.lib.dl.slayer: "
            "import slayer in another process"
        )
    hook.netx_only = netx_only
    # Lava's search for process models runs every file of netx's folder, and warns of the one that
    # is denied torch below.
    denied = f"Cannot import module '<module '{_SEQUENTIAL}'"
    warnings.filterwarnings("ignore", message=re.escape(denied))


def _left_out(name: str) -> str:
    return f"{name} is left out of this process by lava_compat.install(netx_only=True)"


def _needs_vision(name: str) -> str:
    return f"{name} needs torchvision and OpenCV: pip install torchvision opencv-python-headless"


class _LavaFinder(MetaPathFinder):
    """Finds the few Lava modules that need help where they are, and gives them another loader."""

    netx_only = False

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if self.netx_only and fullname == "torch" and _imported_by(_SEQUENTIAL):
            raise ModuleNotFoundError(_left_out("torch"), name=fullname)
        if not fullname.startswith("lava."):
            return None
        if fullname == _MESSAGES:
            return _found_with(_MessagesLoader, fullname, path)
        if fullname == _VAR_MODEL and _needs_hook():
            return _found_with(_VarModelLoader, fullname, path)
        if fullname == _NETX_UTILS and _numpy_2():
            return _found_with(_NetDictLoader, fullname, path)
        if fullname == _CONV_UTILS and _numpy_2():
            return _found_with(_ConvLoader, fullname, path)
        if fullname == _PORTS and _numpy_2(minor=1):
            return _found_with(_PortsLoader, fullname, path)
        if self.netx_only:
            if fullname == _RF:
                return _found_with(_RfLoader, fullname, path)
            if fullname in _LEFT_OUT:
                return _stub(fullname, path, _left_out)
            if fullname.startswith(_SLAYER + "."):
                raise ModuleNotFoundError(_left_out(fullname), name=fullname)
        if fullname.startswith(_OBJECT_DETECTION) and not _has_vision():
            if fullname == _OBJECT_DETECTION:
                return _stub(fullname, path, _needs_vision)
            raise ModuleNotFoundError(_needs_vision(fullname), name=fullname)
        return None


def _imported_by(name: str) -> bool:
    """Whether the import that is being looked up stands in the module of this name."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename == __file__ or "importlib" in frame.f_code.co_filename
    ):
        frame = frame.f_back
    return frame.f_globals.get("__name__") == name


def _has_vision() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("torchvision", "cv2"))


def _found_with(
    loader: type[SourceFileLoader], fullname: str, path: Sequence[str] | None
) -> ModuleSpec | None:
    """The module's own spec, with our loader; None (the usual error) where Lava is absent."""
    spec = PathFinder.find_spec(fullname, path)
    if spec is None or spec.origin is None:
        return None
    return importlib.util.spec_from_file_location(
        fullname, spec.origin, loader=loader(fullname, spec.origin)
    )


def _stub(
    fullname: str, path: Sequence[str] | None, says: Callable[[str], str]
) -> ModuleSpec | None:
    """An empty module in the real one's place, so that the rest of its package imports."""
    real = PathFinder.find_spec(fullname, path)
    if real is None:
        return None
    folders = real.submodule_search_locations
    spec = ModuleSpec(
        fullname, _StubLoader(says), origin=real.origin, is_package=folders is not None
    )
    if folders is not None:
        # The real folders: a submodule is found where it is, or refused by name in find_spec.
        spec.submodule_search_locations = list(folders)
    # Lava asks each module beside a process for its file.
    spec.has_location = real.has_location
    return spec


class _StubLoader(Loader):
    def __init__(self, says: Callable[[str], str]) -> None:
        self._says = says

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        def absent(name: str) -> Any:
            # Names such as __file__ and __all__ are asked for by the import system itself.
            says = name if name.startswith("__") else self._says(f"{module.__name__}.{name}")
            raise AttributeError(says)

        module.__getattr__ = absent  # type: ignore[method-assign]


class _PatchedSource(SourceFileLoader):
    """Compiles a changed syntax tree of the file, and stays away from its cached bytecode.

    The cache beside the wheel's files holds the unchanged module: reading it would undo the
    change, writing it would change what every other program on this Python imports.
    """

    def get_code(self, fullname: str) -> CodeType:
        filename = self.get_filename(fullname)
        tree = self.changed(ast.parse(self.get_data(filename), filename), filename)
        return compile(ast.fix_missing_locations(tree), filename, "exec", dont_inherit=True)

    def changed(self, tree: ast.Module, filename: str) -> ast.Module:
        return tree


def _unexpected(filename: str, what: str) -> PumiceError:
    return PumiceError(
        f"{filename}: {what}; pumice knows lava-nc {VERSION_NC} and lava-dl {VERSION_DL} only: "
        f"{install_command()}"
    )


class _VarModelLoader(_PatchedSource):
    def changed(self, tree: ast.Module, filename: str) -> ast.Module:
        classes = {c.name: c for c in tree.body if isinstance(c, ast.ClassDef) if _is_dataclass(c)}
        count = 0
        for cls in classes.values():
            for statement in cls.body:
                if not isinstance(statement, ast.AnnAssign):
                    continue
                default = statement.value
                if (
                    isinstance(default, ast.Call)
                    and isinstance(default.func, ast.Name)
                    and default.func.id in classes
                    and not default.args
                    and not default.keywords
                ):
                    # ByteEncoder()  ->  _pumice_field(default_factory=ByteEncoder)
                    factory = ast.keyword("default_factory", default.func)
                    maker = ast.Name("_pumice_field", ast.Load())
                    new = ast.Call(maker, args=[], keywords=[factory])
                    statement.value = ast.copy_location(new, default)
                    count += 1
        if count == 0:
            raise _unexpected(filename, "no dataclass default to replace was found")
        # A string or `from __future__` statement must stay ahead of any other.
        start = next(
            i
            for i, s in enumerate(tree.body)
            if not (isinstance(s, ast.ImportFrom) and s.module == "__future__")
            and not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        )
        imported = ast.ImportFrom("dataclasses", [ast.alias("field", "_pumice_field")], 0)
        tree.body.insert(start, imported)
        return tree


def _is_dataclass(cls: ast.ClassDef) -> bool:
    names = [d.func if isinstance(d, ast.Call) else d for d in cls.decorator_list]
    return any(isinstance(n, ast.Name) and n.id == "dataclass" for n in names)


class _PortsLoader(_PatchedSource):
    """The ports, with np.reshape's argument called what numpy calls it since 2.1."""

    def changed(self, tree: ast.Module, filename: str) -> ast.Module:
        old = [n for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg == "newshape"]
        if not old:
            raise _unexpected(filename, "no np.reshape(newshape=...) was found")
        for keyword in old:
            keyword.arg = "shape"
        return tree


class _RfLoader(_PatchedSource):
    """slayer.neuron.rf reduced to `neuron_params`, which turns file fields into parameters."""

    def changed(self, tree: ast.Module, filename: str) -> ast.Module:
        kept: list[ast.stmt] = [
            s for s in tree.body if isinstance(s, ast.Import) and s.names[0].name == "numpy"
        ]
        wanted: list[ast.stmt] = [
            s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == "neuron_params"
        ]
        if not kept or not wanted:
            raise _unexpected(filename, "no function neuron_params was found")
        tree.body = kept + wanted
        return tree


class _NetDictLoader(SourceFileLoader):
    """netx.utils, with an input layer's one-element weight and bias handed over as a number."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        net_dict = getattr(module, "NetDict", None)
        if net_dict is None or "__getitem__" not in vars(net_dict):
            raise _unexpected(self.path, "no class NetDict was found")
        original = net_dict.__getitem__

        def getitem(self: Any, key: Any) -> Any:
            value = original(self, key)
            # Only there: the (1,) weight of a dense layer is a matrix, and netx wants its axis.
            if key in ("weight", "bias") and value.shape == (1,) and self["type"] == "input":
                return value[0]
            return value

        net_dict.__getitem__ = getitem


class _MessagesLoader(SourceFileLoader):
    """The channels, which may set the start method to what it is."""

    def exec_module(self, module: ModuleType) -> None:
        import multiprocessing  # some milliseconds, for the few that come here

        if multiprocessing.get_start_method(allow_none=True) == "fork":
            multiprocessing.set_start_method(None, force=True)
        super().exec_module(module)


class _ConvLoader(SourceFileLoader):
    """conv.utils, whose `conv` gets Python integers: numpy 2 adds 200 to an int8 in 8 bits."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        original = getattr(module, "conv", None)
        if original is None:
            raise _unexpected(self.path, "no function conv was found")

        def conv(input_: Any, weight: Any, *geometry: Any) -> Any:
            *pairs, groups = geometry
            return original(input_, weight, *(tuple(map(int, p)) for p in pairs), int(groups))

        module.conv = conv  # type: ignore[attr-defined]
