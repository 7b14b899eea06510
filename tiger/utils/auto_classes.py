"""Our models among transformers' ``Auto`` classes, without importing either before it is asked for.

``import tiger`` stays fast: it only notes the types of models in ``AutoConfig``, at once where transformers is loaded,
else when it is. The module of a type is imported by the first config of it, and registers the rest.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

AUTO = "transformers.models.auto.configuration_auto"


class _Noted(type):
    """Class of stand-ins for a config class that is imported on first use."""

    home: tuple[str, str]

    def __call__(cls, *args: Any, **options: Any) -> Any:
        return _loaded(cls)(*args, **options)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_loaded(cls), name)


def _loaded(noted: _Noted) -> Any:
    module, name = noted.home
    return getattr(import_module(module), name)


class _Watch(MetaPathFinder, Loader):
    """Import hook that notes the types once transformers has its table of them."""

    def __init__(self, types: dict[str, str]):
        self.types = types

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname != AUTO:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        _note(module, self.types)


def note_types(types: dict[str, str]) -> None:
    """Let ``AutoConfig`` know types of models.

    Args:
        types: ``"module:ConfigClass"`` by ``model_type``. The module registers its models when it is imported, see
            :func:`register`.
    """
    if AUTO in sys.modules:
        _note(sys.modules[AUTO], types)
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch(types))


def _note(auto: Any, types: dict[str, str]) -> None:
    for model_type, place in types.items():
        if model_type not in auto.CONFIG_MAPPING:  # else the module is imported already
            module, _, name = place.partition(":")
            auto.AutoConfig.register(model_type, _Noted(name, (), {"home": (module, name)}))


def register(config: Any, model: type, auto: str = "AutoModel", tokenizer: type | None = None) -> None:
    """Register a model with transformers, in the place of what was noted of it.

    Args:
        config: its config class.
        model: its class.
        auto: name of the ``Auto`` class that makes it.
        tokenizer: what ``AutoTokenizer`` makes for it.
    """
    import transformers

    transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
    getattr(transformers, auto).register(config, model, exist_ok=True)
    if tokenizer is not None:
        transformers.AutoTokenizer.register(config, tokenizer, exist_ok=True)
