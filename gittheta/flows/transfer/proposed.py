"""A store that the repository itself names, in its committed ``theta.toml``. It is used only once its user has said so.

```toml
[store]
url = "s3://team-models/llm"
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gittheta.engine.policy import MAX_RULES, RULES_FILE, parse_document
from gittheta.errors import ConfigError, ThetaError
from gittheta.git.configuration import write_setting
from gittheta.wording import quoted, shell_word

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace

_EXAMPLE = 'it looks like this: [store], then url = "s3://bucket/folder"'


def proposed_store(workspace: Workspace, revision: str = "HEAD") -> str | None:
    """The URL that a commit names, if its user has not chosen a place, or had agreed to another URL there.

    A file that cannot be read proposes nothing.
    """
    text = workspace.blobs.read(f"{revision}:{RULES_FILE}", MAX_RULES)
    if not text:
        return None
    try:
        url = store_url(text.decode())
    except (ThetaError, ValueError):
        return None
    key = _key(workspace)
    setting = workspace.repository.setting
    chosen = setting(key.lower()) or setting("theta.url")
    agreed = setting("theta.agreedstore")
    return url if chosen is None or (chosen == agreed != url) else None


def store_url(text: str) -> str | None:
    """The URL in the text of a theta.toml; None if it names none. Raises ConfigError."""
    table = parse_document(text).get("store")
    if table is None:
        return None
    url = table.get("url") if isinstance(table, dict) else None
    if not isinstance(url, str) or not url or url.startswith("-") or len(table) > 1:
        raise ConfigError("the table 'store' must have a text 'url', and nothing else", path=RULES_FILE, hint=_EXAMPLE)
    return url


def agree(workspace: Workspace, url: str) -> None:
    """Use the store from now on. Raises GitError."""
    write_setting(workspace.repository.git, "--local", _key(workspace), url)
    write_setting(workspace.repository.git, "--local", "theta.agreedStore", url)


def how_to_agree(workspace: Workspace, url: str) -> str:
    """In a line: that there is a proposal, and what to type to follow it."""
    return (
        f"{RULES_FILE} names a store for the models, {quoted(url)}; "
        f"if you trust it: git config {_key(workspace)} {shell_word(url)} && git theta pull"
    )


def _key(workspace: Workspace) -> str:
    name = next(iter(workspace.repository.remotes()), None)
    return f"remote.{name}.thetaUrl" if name else "theta.url"
