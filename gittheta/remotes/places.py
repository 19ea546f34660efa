"""Buckets by URL: which service, with whose credentials, through which proxy."""

from __future__ import annotations

import base64
import configparser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from gittheta.api import RemoteContext, RemoteError
from gittheta.errors import MissingExtra

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from obstore.store import ObjectStore

#: Bytes of one part of a large object.
LARGE = 16 << 20


@dataclass(frozen=True)
class Bucket:
    """A place for objects, and what can be done there."""

    store: ObjectStore
    #: Its URL as users may see it: without a user or password.
    shown: str
    #: Where credentials come from, for hints.
    login: str
    can_list: bool = True
    can_write: bool = True
    takes_parts: bool = True


def bucket_at(url: str, context: RemoteContext) -> Bucket | None:
    """The bucket behind a URL; None for URLs of other kinds. Raises RemoteError, or MissingExtra without obstore."""
    scheme = url.partition("://")[0]
    make = _KINDS.get(scheme)
    if make is None or "://" not in url or (scheme in ("http", "https") and not context.chosen):
        return None
    try:
        from obstore.exceptions import BaseError
    except ImportError as error:
        raise MissingExtra("bucket", f"a place at {scheme}:// needs obstore") from error
    try:
        return make(urlsplit(url), context)
    except (ValueError, OSError, BaseError) as error:
        what = f"cannot use {_shown(urlsplit(url))}: {type(error).__name__}"
        raise RemoteError(what, hint="check the URL and its settings") from None


def _s3(url: SplitResult, context: RemoteContext) -> Bucket:
    from obstore.store import S3Store

    profile = _Profile.read(context)
    endpoint = context.setting("theta.s3.endpoint") or _variable(context, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    endpoint = endpoint or profile.get("endpoint_url")
    config: dict[str, Any] = {"region": _region(context, profile)}
    if endpoint:
        config |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
    if not _variable(context, "AWS_ACCESS_KEY_ID") or context.setting("theta.s3.profile"):
        config |= profile.credentials()
    store = S3Store(_host(url), prefix=_prefix(url), config=config, client_options=_client(endpoint, context))  # type: ignore[arg-type]
    return Bucket(store, _shown(url), "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or theta.s3.profile")


def _region(context: RemoteContext, profile: _Profile) -> str:
    chosen = context.setting("theta.s3.region") or _variable(context, "AWS_REGION", "AWS_DEFAULT_REGION")
    return chosen or profile.get("region") or "us-east-1"


def _gs(url: SplitResult, context: RemoteContext) -> Bucket:
    from obstore.store import GCSStore

    store = GCSStore(_host(url), prefix=_prefix(url), client_options=_client(None, context))
    return Bucket(store, _shown(url), "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`")


def _az(url: SplitResult, context: RemoteContext) -> Bucket:
    from obstore.store import AzureStore

    endpoint = context.setting("theta.az.endpoint")
    config: dict[str, Any] = {}
    if context.setting("theta.az.account"):
        config["account_name"] = context.setting("theta.az.account")
    if endpoint:
        config["endpoint"] = endpoint
    store = AzureStore(
        _host(url),
        prefix=_prefix(url),
        config=config,  # type: ignore[arg-type]
        client_options=_client(endpoint, context),
    )
    return Bucket(store, _shown(url), "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or theta.az.account")


def _dav(url: SplitResult, context: RemoteContext) -> Bucket:
    plain = url._replace(scheme="https" if url.scheme == "davs" else "http")
    return _web(plain, context, shown=_shown(url), can_write=True)


def _http(url: SplitResult, context: RemoteContext) -> Bucket:
    return _web(url, context, shown=_shown(url), can_write=False)


def _web(url: SplitResult, context: RemoteContext, shown: str, *, can_write: bool) -> Bucket:
    from obstore.store import HTTPStore

    address = urlunsplit(url._replace(netloc=url.netloc.rpartition("@")[2]))
    options = _client(address, context)
    headers = dict(context.network.http(address).headers)
    # Whoever may write must log in; a folder that anybody may read is not asked about.
    if (can_write or url.username) and "authorization" not in {name.lower() for name in headers}:
        headers |= _basic(urlunsplit(url), context)
    if headers:
        options["default_headers"] = headers
    store = HTTPStore(address, client_options=options)
    return Bucket(
        store, shown, "`git credential` for that host", can_list=False, can_write=can_write, takes_parts=False
    )


_KINDS: dict[str, Callable[[SplitResult, RemoteContext], Bucket]] = {
    "s3": _s3,
    "gs": _gs,
    "az": _az,
    "dav": _dav,
    "davs": _dav,
    "http": _http,
    "https": _http,
}


def _client(url: str | None, context: RemoteContext) -> Any:
    """Git's own settings of the network, as obstore takes them."""
    address = url or "https://"
    http = context.network.http(address)
    options: dict[str, Any] = {"allow_http": address.startswith("http://"), "timeout": "600s", "connect_timeout": "30s"}
    if http.proxy:
        options["proxy_url"] = http.proxy
    if http.ca_file:
        options["root_certificate"] = http.ca_file.read_bytes()
    if not http.verify and url:
        shown = _shown(urlsplit(url))
        context.reporter.warn(f"http.sslVerify is off for {shown}: whoever is in between can read along")
        options["allow_invalid_certificates"] = True
    return options


def _basic(address: str, context: RemoteContext) -> dict[str, str]:
    """The header with the password that Git knows for a URL."""
    credential = context.network.credential(address)
    if credential is None:
        return {}
    pair = f"{credential.username}:{credential.password}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


@dataclass(frozen=True)
class _Profile:
    """One profile of the AWS command line's files."""

    values: dict[str, str]

    @classmethod
    def read(cls, context: RemoteContext) -> _Profile:
        """The profile that the user has chosen. Raises RemoteError if the one that is named is not there."""
        name = context.setting("theta.s3.profile") or _variable(context, "AWS_PROFILE", "AWS_DEFAULT_PROFILE")
        home = Path(_variable(context, "HOME", "USERPROFILE") or Path.home()) / ".aws"
        files = {
            Path(_variable(context, "AWS_CONFIG_FILE") or home / "config"): f"profile {name}" if name else "default",
            Path(_variable(context, "AWS_SHARED_CREDENTIALS_FILE") or home / "credentials"): name or "default",
        }
        values: dict[str, str] = {}
        there = False
        for path, section in files.items():
            parser = configparser.RawConfigParser()
            try:
                parser.read(path)
            except configparser.Error as error:
                raise RemoteError(f"cannot read {path}", hint="mend that file") from error
            there = there or parser.has_section(section)
            values |= dict(parser.items(section)) if parser.has_section(section) else {}
        if name and not there:
            raise RemoteError(
                f"there is no profile '{name}'", hint="`aws configure list-profiles`, then git config theta.s3.profile"
            )
        return cls(values)

    def get(self, key: str) -> str | None:
        """One value."""
        return self.values.get(key) or None

    def credentials(self) -> dict[str, str]:
        """Its keys, as obstore calls them; empty where it has none of its own."""
        names = {
            "aws_access_key_id": "access_key_id",
            "aws_secret_access_key": "secret_access_key",
            "aws_session_token": "session_token",
        }
        return {ours: self.values[theirs] for theirs, ours in names.items() if self.values.get(theirs)}


def _variable(context: RemoteContext, *names: str) -> str | None:
    return next((context.environment[name] for name in names if context.environment.get(name)), None)


def _host(url: SplitResult) -> str:
    if not url.netloc or "@" in url.netloc:
        raise RemoteError(f"{url.scheme}:// needs the name of a bucket", hint=f"{url.scheme}://BUCKET/FOLDER")
    return url.netloc


def _prefix(url: SplitResult) -> str | None:
    return unquote(url.path).strip("/") or None


def _shown(url: SplitResult) -> str:
    return urlunsplit(url._replace(netloc=url.netloc.rpartition("@")[2], query="", fragment=""))
