"""Git's own settings of the network hold for objects as they do for refs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gittheta.api.network import Credential
from gittheta.errors import RemoteError
from gittheta.git.network.settings import GitNetwork
from gittheta.git.process import Git
from tests.support.command import git
from tests.support.repository import Repo

URL = "https://host.example/team/models.git"


def network(repo: Repo, **environment: str) -> GitNetwork:
    return GitNetwork(Git(repo.top).with_environment(**environment))


def test_settings_for_one_url_do_not_hold_for_others(repo: Repo) -> None:
    git(repo.top, "config", "http.https://host.example/.sslVerify", "false")
    git(repo.top, "config", "http.https://host.example/.sslCAInfo", "/ca.pem")
    git(repo.top, "config", "http.https://host.example/team.sslCert", "/me.pem")
    git(repo.top, "config", "http.proxy", "http://proxy:1")
    settings = network(repo).http(URL)
    assert not settings.verify
    assert (settings.ca_file, settings.certificate) == (Path("/ca.pem"), Path("/me.pem"))
    assert settings.proxy == "http://proxy:1"
    other = network(repo).http("https://other.example/team/models.git")
    assert other.verify
    assert (other.ca_file, other.certificate) == (None, None)


def test_headers_add_up_and_go_to_no_other_host(repo: Repo) -> None:
    git(repo.top, "config", "http.extraHeader", "X-All: 1")
    git(repo.top, "config", "--add", "http.https://host.example/team.extraHeader", "Authorization: Bearer secret")
    git(repo.top, "config", "http.https://host.example/team/models.git.extraHeader", "X-One: 2")
    assert network(repo).http(URL).headers == {"X-All": "1", "Authorization": "Bearer secret", "X-One": "2"}
    for url in (
        "https://host.example/teams/x",
        "https://host.example:444/team/models.git",
        "http://host.example/team/x",
    ):
        assert network(repo).http(url).headers == {"X-All": "1"}
    assert "secret" not in repr(network(repo).http(URL))


def test_an_empty_header_takes_back_those_before_it(repo: Repo) -> None:
    git(repo.top, "config", "http.extraHeader", "X-All: 1")
    git(repo.top, "config", "--add", "http.extraHeader", "")
    git(repo.top, "config", "--add", "http.extraHeader", "X-New: 2")
    assert network(repo).http(URL).headers == {"X-New": "2"}


def test_a_header_without_a_name_is_an_error_that_does_not_show_it(repo: Repo) -> None:
    git(repo.top, "config", "http.extraHeader", "secret")
    with pytest.raises(RemoteError) as error:
        network(repo).http(URL)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({"https_proxy": "http://p:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ({"http_proxy": "http://p:1"}, None),
        ({"https_proxy": "http://p:1", "no_proxy": "x.example,.host.example"}, None),
        ({"https_proxy": "http://p:1", "NO_PROXY": "*"}, None),
        ({"https_proxy": "http://p:1", "no_proxy": "ost.example"}, "http://p:1"),
    ],
)
def test_variables_name_a_proxy(repo: Repo, variables: dict[str, str], proxy: str | None) -> None:
    assert network(repo, **variables).http(URL).proxy == proxy


def test_how_ssh_is_called(repo: Repo) -> None:
    assert network(repo).ssh == ("ssh",)
    assert network(repo, GIT_SSH="/opt/my ssh").ssh == ("/opt/my ssh",)
    git(repo.top, "config", "core.sshCommand", "ssh -i 'my key'")
    assert network(repo, GIT_SSH="/opt/ssh").ssh == ("ssh", "-i", "my key")
    assert network(repo, GIT_SSH_COMMAND="ssh -p 7").ssh == ("ssh", "-p", "7")
    with pytest.raises(RemoteError):
        _ = network(repo, GIT_SSH_COMMAND="ssh 'x").ssh


def test_helpers_are_asked_and_told(repo: Repo, tmp_path: Path) -> None:
    helper = tmp_path / "helper"
    helper.write_text(
        f'#!/bin/sh\necho "$1" >>{tmp_path}/log\ncat >>{tmp_path}/log\n'
        'test "$1" = get && printf "username=me\\npassword=p=w\\n"\nexit 0\n'
    )
    helper.chmod(0o755)
    git(repo.top, "config", "credential.helper", str(helper))
    given = network(repo).credential(URL)
    assert given == Credential("me", "p=w")
    assert "p=w" not in repr(given)
    network(repo).approve(URL, given)
    network(repo).reject(URL, given)
    log = (tmp_path / "log").read_text()
    assert [line for line in log.splitlines() if line in ("get", "store", "erase")] == ["get", "store", "erase"]
    assert log.count("host=host.example") == 3


def test_nobody_to_ask_is_no_credential(repo: Repo) -> None:
    assert network(repo, GIT_TERMINAL_PROMPT="0", GIT_ASKPASS="").credential(URL) is None
