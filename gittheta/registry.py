"""Find plugins by name: built-ins listed here as dotted strings, others by entry point; both loaded when asked for.

Entry points are listed only when no built-in has the name, because listing them costs a walk over every installed
distribution and the filter starts with each git command.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, cast

from gittheta.api import Encoding, Format, Merge, Predictor, Remote, is_blockwise
from gittheta.errors import PluginError

BUILT_IN: dict[str, dict[str, str]] = {
    "formats": {"safetensors": "gittheta.formats.safetensors:Safetensors"},
    "encodings": {
        "dense": "gittheta.encodings.dense:Dense",
        "delta": "gittheta.encodings.delta:Delta",
        "sparse": "gittheta.encodings.sparse:Sparse",
        "ternary": "gittheta.encodings.ternary:Ternary",
        "scale": "gittheta.encodings.scale.predictor:Scale",
        "lowrank": "gittheta.encodings.lowrank.predictor:LowRank",
        "resize": "gittheta.encodings.resize.predictor:Resize",
    },
    "merges": {
        "linear": "gittheta.merges.linear:Linear",
        "pick": "gittheta.merges.linear:Pick",
        "nearswap": "gittheta.merges.linear:NearSwap",
        "task_arithmetic": "gittheta.merges.task_vectors:TaskArithmetic",
        "ties": "gittheta.merges.task_vectors:Ties",
        "dare": "gittheta.merges.task_vectors:Dare",
        "della": "gittheta.merges.task_vectors:Della",
        "breadcrumbs": "gittheta.merges.task_vectors:Breadcrumbs",
        "sce": "gittheta.merges.selective:Sce",
        "ram": "gittheta.merges.selective:Ram",
        "slerp": "gittheta.merges.directions:Slerp",
        "nuslerp": "gittheta.merges.directions:NuSlerp",
        "multislerp": "gittheta.merges.directions:MultiSlerp",
        "karcher": "gittheta.merges.directions:Karcher",
        "model_stock": "gittheta.merges.directions:ModelStock",
        "actmat": "gittheta.merges.matrices:ActMat",
        "tsv": "gittheta.merges.matrices:Tsv",
        "iso": "gittheta.merges.matrices:Iso",
        "knots": "gittheta.merges.matrices:Knots",
        "fisher": "gittheta.merges.statistics_based:Fisher",
        "regmean": "gittheta.merges.statistics_based:RegMean",
        "mats": "gittheta.merges.statistics_based:Mats",
    },
    "metrics": {},
    "remotes": {"directory": "gittheta.remotes.directory:DirectoryRemote"},
}


@dataclass(frozen=True)
class PluginInfo:
    """Where a plugin comes from, without loading it."""

    kind: str
    name: str
    target: str
    distribution: str


@dataclass
class Registry:
    """Plugins of every kind, each loaded at most once."""

    built_in: dict[str, dict[str, str]] = field(default_factory=lambda: BUILT_IN)
    _loaded: dict[tuple[str, str], type[Any]] = field(default_factory=dict)
    _external: dict[str, dict[str, PluginInfo]] = field(default_factory=dict)

    def encoding(self, name: str) -> Encoding | Predictor:
        """The encoding of that name, of either kind. Raises PluginError."""
        return cast("Encoding | Predictor", self._make("encodings", name))

    def blockwise(self, name: str) -> Encoding:
        """The encoding of that name, which must be one that works block by block. Raises PluginError."""
        found = self.encoding(name)
        if is_blockwise(found):
            return found
        raise PluginError(f"the encoding '{name}' is a predictor")

    def merge(self, name: str) -> type[Merge]:
        """The merge method of that name; its fields are its options. Raises PluginError."""
        return cast("type[Merge]", self.load("merges", name))

    def format(self, name: str) -> Format:
        """The format of that name. Raises PluginError."""
        return cast(Format, self._make("formats", name))

    def remotes(self) -> Iterator[type[Remote]]:
        """Every kind of remote, built-ins first."""
        for name in self.names("remotes"):
            yield cast("type[Remote]", self.load("remotes", name))

    def _make(self, kind: str, name: str) -> object:
        plugin = self.load(kind, name)
        try:
            return plugin()
        except Exception as error:  # a plugin may fail in any way
            raise PluginError(f"the {kind[:-1]} '{name}' cannot be made: {error!r}") from error

    def names(self, kind: str) -> Iterator[str]:
        """The names of one kind, lazily: built-ins, then those of installed plugins."""
        yield from self.built_in[kind]
        yield from self.external(kind)

    def load(self, kind: str, name: str) -> type[Any]:
        """The class of a plugin. Raises PluginError if there is none, or it cannot be imported."""
        key = (kind, name)
        if key not in self._loaded:
            target = self.built_in[kind].get(name)
            if target is None:
                found = self.external(kind).get(name)
                if found is None:
                    raise PluginError(
                        f"no {kind[:-1]} named '{name}' is installed",
                        mend="upgrade gittheta or install the plugin that has it; `git theta plugins` lists yours",
                    )
                target = found.target
            self._loaded[key] = _import(kind, name, target)
        return self._loaded[key]

    def external(self, kind: str) -> dict[str, PluginInfo]:
        """Plugins of one kind that other distributions bring. Raises PluginError if a name is there twice."""
        if kind not in self._external:
            self._external[kind] = _list_external(kind, self.built_in[kind])
        return self._external[kind]

    def all(self) -> Iterator[PluginInfo]:
        """Every plugin of every kind, without loading any."""
        for kind, names in self.built_in.items():
            for name, target in names.items():
                yield PluginInfo(kind, name, target, "gittheta")
            yield from self.external(kind).values()


def _import(kind: str, name: str, target: str) -> type[Any]:
    module, _, attribute = target.partition(":")
    try:
        loaded = getattr(import_module(module), attribute)
    except Exception as error:  # a plugin's module may fail in any way
        raise PluginError(f"the {kind[:-1]} '{name}' cannot be loaded from {target}: {error!r}") from error
    if getattr(loaded, "name", None) != name:
        raise PluginError(f"the {kind[:-1]} registered as '{name}' calls itself '{getattr(loaded, 'name', None)}'")
    return cast("type[Any]", loaded)


def _list_external(kind: str, built_in: dict[str, str]) -> dict[str, PluginInfo]:
    from importlib.metadata import entry_points

    found: dict[str, PluginInfo] = {}
    for point in entry_points(group=f"gittheta.{kind}"):
        distribution = point.dist.name if point.dist else "?"
        other = "gittheta" if point.name in built_in else ""
        if point.name in found and found[point.name].target != point.value:
            other = found[point.name].distribution
        if other:
            raise PluginError(
                f"two {kind} are named '{point.name}': one of {other}, one of {distribution}",
                mend=f"uninstall one of them: pip uninstall {distribution}",
            )
        found[point.name] = PluginInfo(kind, point.name, point.value, distribution)
    return found
