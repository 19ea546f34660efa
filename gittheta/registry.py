"""Find plugins by name: built-ins, listed here as dotted strings, and entry points. Both are loaded on first use.

Entry points are listed only when no built-in has the name, because listing them costs a walk over every installed
distribution, and Git starts the filter with many of its commands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any, cast

from gittheta.api import API_VERSION
from gittheta.errors import MissingExtra, PluginError, needing_torch

if TYPE_CHECKING:
    from gittheta.api import Encoding, Format, Merge, Metric, Predictor, RemotePlugin

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
    "metrics": {
        "changed": "gittheta.metrics.changed:Changed",
        "norm": "gittheta.metrics.norm:Norm",
    },
    "remotes": {
        "directory": "gittheta.remotes.directory:DirectoryRemote",
        "bucket": "gittheta.remotes.bucket:BucketRemote",
        "lfs": "gittheta.remotes.lfs.remote:LfsRemote",
        "sftp": "gittheta.remotes.sftp:SftpRemote",
    },
}


@dataclass(frozen=True)
class PluginInfo:
    """Where a plugin comes from; known without loading it."""

    kind: str
    name: str
    target: str
    distribution: str


@dataclass(frozen=True)
class Clash:
    """Several plugins of one kind with the same name. Plugins of other distributions are then left out."""

    left_out: tuple[PluginInfo, ...]
    #: The distribution whose plugin keeps the name; None if all plugins of that name are left out.
    holder: str | None

    def __str__(self) -> str:
        first = self.left_out[0]
        others = [self.holder] if self.holder else [plugin.distribution for plugin in self.left_out[1:]]
        return f"two {first.kind} are named '{first.name}': one of {first.distribution}, one of {', '.join(others)}"


@dataclass(frozen=True)
class _Listing:
    """The plugins of one kind from other distributions."""

    plugins: dict[str, PluginInfo]
    clashes: dict[str, Clash]


@dataclass
class Registry:
    """Plugins of every kind, each loaded at most once. Safe to use from several threads."""

    built_in: dict[str, dict[str, str]] = field(default_factory=lambda: BUILT_IN)
    _loaded: dict[tuple[str, str], type[Any]] = field(default_factory=dict)
    _external: dict[str, _Listing] = field(default_factory=dict)
    _lock: RLock = field(default_factory=RLock)

    def encoding(self, name: str) -> Encoding | Predictor:
        """The encoding of that name, blockwise or a predictor. Raises PluginError."""
        return cast("Encoding | Predictor", self._make("encodings", name))

    def blockwise(self, name: str) -> Encoding:
        """The blockwise encoding of that name. Raises PluginError if there is none, or if it is a predictor."""
        encoding = self.encoding(name)
        if encoding.kind == "blockwise":
            return encoding
        raise PluginError(f"the encoding '{name}' is a predictor")

    def merge(self, name: str) -> type[Merge]:
        """The merge method of that name; its fields are its options. Raises PluginError."""
        return cast("type[Merge]", self.load("merges", name))

    def format(self, name: str) -> Format:
        """The format of that name. Raises PluginError."""
        return cast("Format", self._make("formats", name))

    def metric(self, name: str) -> Metric:
        """The metric of that name. Raises PluginError."""
        return cast("Metric", self._make("metrics", name))

    def remotes(self) -> Iterator[type[RemotePlugin]]:
        """Every kind of remote, built-ins first."""
        for name in self.names("remotes"):
            yield cast("type[RemotePlugin]", self.load("remotes", name))

    def _make(self, kind: str, name: str) -> object:
        plugin = self.load(kind, name)
        try:
            return plugin()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may fail in any way, and try to end the process
            raise PluginError(f"the {kind[:-1]} '{name}' cannot be made: {error!r}") from error

    def names(self, kind: str) -> Iterator[str]:
        """The names of one kind, lazily: built-ins, then those of installed plugins."""
        yield from self.built_in[kind]
        yield from self._listing(kind).plugins

    def load(self, kind: str, name: str) -> type[Any]:
        """The class of a plugin.

        Raises PluginError if there is none of that name, or several, if it cannot be imported, or if it was written
        for another version of the API.
        """
        key = (kind, name)
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = self._import(kind, name)
            return self._loaded[key]

    def _import(self, kind: str, name: str) -> type[Any]:
        if name in self.built_in[kind]:
            return _import(kind, name, self.built_in[kind][name])
        listing = self._listing(kind)
        if name in listing.clashes:
            clash = listing.clashes[name]
            uninstall = f"pip uninstall {clash.left_out[0].distribution}"
            raise PluginError(str(clash), hint=f"uninstall one of them: {uninstall}")
        if name not in listing.plugins:
            raise PluginError(
                f"no {kind[:-1]} named '{name}' is installed",
                hint="upgrade gittheta or install the plugin that has it; `git theta plugins` lists yours",
            )
        info = listing.plugins[name]
        plugin = _import(kind, name, info.target)
        _check_version(kind, info, plugin)
        return plugin

    def _listing(self, kind: str) -> _Listing:
        with self._lock:
            if kind not in self._external:
                self._external[kind] = _list_external(kind, self.built_in[kind])
            return self._external[kind]

    def all(self) -> Iterator[PluginInfo]:
        """Every plugin of every kind, except those left out because of a clash. Loads none."""
        for kind, names in self.built_in.items():
            for name, target in names.items():
                yield PluginInfo(kind, name, target, "gittheta")
            yield from self._listing(kind).plugins.values()

    def clashes(self) -> Iterator[Clash]:
        """Every clash of names, of every kind."""
        for kind in self.built_in:
            yield from self._listing(kind).clashes.values()


def _import(kind: str, name: str, target: str) -> type[Any]:
    module, _, attribute = target.partition(":")
    try:
        with needing_torch(f"the {kind[:-1]} '{name}'"):
            loaded = getattr(import_module(module), attribute)
            own_name = getattr(loaded, "name", None)
    except (MissingExtra, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plugin's module may fail in any way, and try to end the process
        raise PluginError(f"the {kind[:-1]} '{name}' cannot be loaded from {target}: {error!r}") from error
    if own_name != name:
        raise PluginError(f"the {kind[:-1]} registered as '{name}' calls itself '{own_name}'")
    return cast("type[Any]", loaded)


def _check_version(kind: str, info: PluginInfo, plugin: type[Any]) -> None:
    """Raise PluginError unless the plugin's ``api_version`` (a ``ClassVar[int]``) is that of this gittheta."""
    version = getattr(plugin, "api_version", None)
    if version == API_VERSION:
        return
    written = "does not say for which version" if version is None else f"was written for version {version}"
    newer = isinstance(version, int) and version > API_VERSION
    raise PluginError(
        f"the {kind[:-1]} '{info.name}' {written} of the API; this gittheta has version {API_VERSION}",
        hint="pip install --upgrade " + ("gittheta" if newer else info.distribution),
    )


def _list_external(kind: str, built_in: dict[str, str]) -> _Listing:
    from importlib.metadata import entry_points

    candidates: dict[str, dict[str, PluginInfo]] = {}
    for point in entry_points(group=f"gittheta.{kind}"):
        distribution = point.dist.name if point.dist else "?"
        # The same distribution may lie on two import paths: that does not count as a clash.
        candidates.setdefault(point.name, {})[point.value] = PluginInfo(kind, point.name, point.value, distribution)
    plugins, clashes = {}, {}
    for name, targets in candidates.items():
        rivals = tuple(targets.values())
        if name in built_in:
            clashes[name] = Clash(rivals, "gittheta")
        elif len(rivals) > 1:
            clashes[name] = Clash(rivals, None)
        else:
            plugins[name] = rivals[0]
    return _Listing(plugins, clashes)
