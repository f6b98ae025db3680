"""Lets SGLang's data-parallel controller be imported without the accelerator packages that it imports.

The packages below are answered by empty modules whose attributes are inert; none of them is used by routing.
"""

import importlib.abc
import importlib.machinery
import sys
import types

ABSENT = {"sgl_kernel", "flashinfer", "torchvision", "torchaudio", "IPython"}


class _Inert:
    def __init__(self, *args, **kwargs):
        pass

    def __getattr__(self, name):
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return _Inert()

    def __call__(self, *args, **kwargs):
        # A decorator leaves what it decorates.
        decorates = len(args) == 1 and callable(args[0]) and not isinstance(args[0], _Inert)
        return args[0] if decorates else _Inert()

    def __getitem__(self, key):
        return _Inert()

    def __or__(self, other):
        return _Inert()

    __ror__ = __or__

    def __iter__(self):
        return iter(())

    def __mro_entries__(self, bases):
        return (object,)


class _Module(types.ModuleType):
    __path__: list = []
    __version__ = "99.0"

    def __getattr__(self, name):
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return _Inert()


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ABSENT:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


def install() -> None:
    """The last to be asked: what is installed is used."""
    sys.meta_path.append(_Finder())
