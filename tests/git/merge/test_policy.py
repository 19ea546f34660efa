"""Which method merges which tensor: command line, git config, theta.toml, attributes, in real merges and picks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gittheta.engine.policy import Verb
from gittheta.errors import ThetaError
from gittheta.flows.merge.plan import MergePlan
from gittheta.flows.merge.rules import read_policy
from gittheta.flows.resolve.replay import preview as merge_previews
from gittheta.flows.workspace import Workspace
from tests.support.checkpoints import checkpoint, normal, tensors_of
from tests.support.world import ATTRIBUTES, Repo, Template, World, two_branches

M = "m.safetensors"
BASE = {"embed.weight": normal(1, 6, 4), "layer.norm": normal(2, 6), "layer.up": normal(3, 6, 4), "still": normal(4, 3)}
OURS = BASE | {"embed.weight": normal(11, 6, 4), "layer.norm": normal(12, 6), "layer.up": normal(13, 6, 4)}
THEIRS = BASE | {"embed.weight": normal(21, 6, 4), "layer.norm": normal(22, 6), "layer.up": normal(23, 6, 4)}
TAKE_BASE = "[[rule]]\nmethod = 'take'\nfrom = 'base'\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """Two branches that changed three tensors each in its own way; main is checked out."""
    versions = map(checkpoint, (BASE, OURS, THEIRS))
    return two_branches(tmp_path_factory.mktemp("built"), installed_home, *versions)


@pytest.fixture
def sides(world: World, built: Template, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """The repository of the two. This process sees what git sees there: most is asked here, which is fast."""
    repo = built.copy_to(world)
    for key, value in repo.env.items():
        monkeypatch.setenv(key, value)
    return repo


def rules(repo: Repo, text: str | bytes) -> None:
    """Commit a theta.toml."""
    repo.commit(text if isinstance(text, bytes) else text.encode(), "theta.toml", "rules")


@contextmanager
def configured(once: Mapping[str, str] | None) -> Iterator[None]:
    """What `git -c theta.KEY=VALUE` says to the commands that it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_COUNT", str(len(once or {})))
        for at, (key, value) in enumerate((once or {}).items()):
            patch.setenv(f"GIT_CONFIG_KEY_{at}", f"theta.{key}")
            patch.setenv(f"GIT_CONFIG_VALUE_{at}", value)
        yield


def preview(repo: Repo, once: Mapping[str, str] | None = None, **given: str) -> MergePlan:
    """The plan of a merge; ``once`` is what `git -c theta.merge.KEY=VALUE` says, the rest are options like -X."""
    keys = {f"merge.{key}": value for key, value in (once or {}).items()}
    with configured(keys), Workspace.open(repo.path) as workspace:
        (result,) = merge_previews(workspace, ["side"], {key.rstrip("_"): value for key, value in given.items()})
        return result.plan


def planned(repo: Repo, once: Mapping[str, str] | None = None, **given: str) -> dict[str, tuple[str, str]]:
    """For each tensor that both changed: whose it would be, or by which method, and who says so."""
    chosen = [each for each in preview(repo, once, **given).decisions if each.choice]
    return {each.name: (each.origin or each.choice.method, each.choice.source) for each in chosen if each.choice}


def refused(repo: Repo, once: Mapping[str, str] | None = None, **given: str) -> tuple[str, int]:
    """What is said instead of a plan, and the exit code."""
    with pytest.raises(ThetaError) as caught:
        preview(repo, once, **given)
    assert caught.value.hint
    assert len(str(caught.value)) < 1000
    return str(caught.value), caught.value.exit_code


def everywhere(origin: str, source: str) -> dict[str, tuple[str, str]]:
    return dict.fromkeys(("embed.weight", "layer.norm", "layer.up"), (origin, source))


@pytest.mark.slow
def test_who_decides(sides: Repo) -> None:
    assert planned(sides) == everywhere("linear", "default")
    sides.commit((ATTRIBUTES + "*.safetensors theta-merge=take:from=base\n").encode(), ".gitattributes")
    assert planned(sides) == everywhere("base", "attribute theta-merge")
    sides.write("theta.toml", b"[[rule]]\nmethod = 'take'\nfrom = 'theirs'\n")
    assert planned(sides) == everywhere("base", "attribute theta-merge"), "rules count once they are committed"
    sides.git("add", "theta.toml")
    assert planned(sides) == everywhere("base", "attribute theta-merge")
    sides.git("commit", "-q", "-m", "rules")
    assert planned(sides) == everywhere("theirs", "theta.toml rule 1")
    sides.git("config", "theta.merge.METHOD", "take")
    sides.git("config", "theta.Merge.From", "ours")
    assert planned(sides) == everywhere("ours", "git config theta.merge")
    once = {"method": "take", "from": "theirs"}
    assert planned(sides, once) == everywhere("theirs", "git -c theta.merge")
    assert planned(sides, once, method="take", from_="base") == everywhere("base", "the command line")
    ours = sides.sha()
    sides.git("merge", "-q", "--no-edit", "side")
    assert sides.sha() == ours
    sides.git("reset", "-q", "--hard", "HEAD^")
    sides.git("-c", "theta.merge.method=take", "-c", "theta.merge.from=theirs", "merge", "-q", "--no-edit", "side")
    assert sides.read() == checkpoint(THEIRS)
    sides.healthy()


@pytest.mark.slow
def test_an_option_of_the_command_line_goes_to_the_methods_of_the_rules(sides: Repo) -> None:
    rules(sides, "[[rule]]\ntensors = '*norm'\nmethod = 'take'\nfrom = 'ours'\n" + TAKE_BASE)
    names = ("ours", "theta.toml rule 1"), ("base", "theta.toml rule 2")
    assert planned(sides) == {"embed.weight": names[1], "layer.norm": names[0], "layer.up": names[1]}
    assert set(planned(sides, {"from": "theirs"}).values()) == {("theirs", source) for _, source in names}


@pytest.mark.slow
def test_embeddings_norms_and_blocks_differ(sides: Repo) -> None:
    rules(
        sides,
        """
        [[rule]]
        path = "other/*"
        method = "take"
        from = "base"
        [[rule]]
        tensors = "*embed*"
        method = "linear"
        weight = [3, 1]
        [[rule]]
        tensors = ["*bias", "*norm"]
        method = "take"
        from = "theirs"
        [[rule]]
        method = "task_arithmetic"
        lambda = 0.5
        """,
    )
    said = sides.run("merge", "--no-edit", "side").stderr
    assert "1 unchanged, 1 taken from theirs, 1 merged by linear, 1 merged by task_arithmetic" in said
    results = {
        name: np.frombuffer(raw[2], np.float32).reshape(BASE[name].shape)
        for name, raw in tensors_of(sides.read()).items()
    }
    ours, theirs, base = (
        {name: value.astype(np.float64) for name, value in each.items()} for each in (OURS, THEIRS, BASE)
    )
    mean = (3 * ours["embed.weight"] + theirs["embed.weight"]) / 4
    assert np.array_equal(results["embed.weight"], mean.astype(np.float32))
    assert np.array_equal(results["layer.norm"], THEIRS["layer.norm"])
    up = base["layer.up"] + 0.5 * (ours["layer.up"] + theirs["layer.up"] - 2 * base["layer.up"])
    np.testing.assert_allclose(results["layer.up"], up, rtol=1e-6)
    message = sides.git("log", "-1", "--format=%(trailers:key=Theta-Merge,valueonly)")
    assert [line.split()[1] for line in message.split("\n") if line] == ["linear", "take", "task_arithmetic"]
    assert "reproduces to the bit" in sides.git("theta", "merge-plan", "--replay", "HEAD")
    sides.healthy()


@pytest.mark.slow
def test_a_theta_toml_that_is_not_a_file_of_rules(sides: Repo) -> None:
    sides.commit(TAKE_BASE.encode(), "theta.toml/theta.toml")
    assert planned(sides) == everywhere("linear", "default")
    sides.git("rm", "-q", "-r", "theta.toml")
    sides.write("rules.toml", TAKE_BASE.encode())
    (sides.path / "theta.toml").symlink_to("rules.toml")
    sides.git("add", ".")
    sides.git("commit", "-q", "-m", "a link")
    assert "theta.toml: not valid TOML" in refused(sides)[0]


#: A theta.toml, what is said about it, and the exit code.
BROKEN: dict[str, tuple[bytes, str, int]] = {
    "not UTF-8": (b"# \xff\n", "theta.toml: not UTF-8", 51),
    "not TOML": (b"[[rule", "theta.toml: not valid TOML", 51),
    "huge": (b"#" * (3 << 20), "theta.toml: more than 256 KiB", 51),
    "deep": (b"x = " + b"[" * 9999, "theta.toml: not valid TOML", 51),
    "long keys": (b"a" + b".a" * 9999 + b" = 1", "theta.toml: ", 51),
    "keys twice": (b"[[rule]]\nseed = 1\nseed = 2", "theta.toml: not valid TOML", 51),
    "unknown method": (
        b"[[rule]]\n[[rule]]\nmethod = 'tise'",
        f"{M}: no merge named 'tise' is installed (theta.toml rule 2)",
        10,
    ),
}
BROKEN |= {
    name: (f"[[rule]]\npath = 'x'\n[[rule]]\n{text}".encode(), f"{M}: {said} (theta.toml rule 2)", 40)
    for name, text, said in [
        ("unknown option", "method = 'linear'\ndensity = 1", "linear has no option 'density'"),
        ("option of take", "method = 'take'\nfrom = 'ours'\ndensity = 1", "`take` has no option 'density'"),
        ("take from nobody", "method = 'take'\nfrom = 'us'", "`take` from 'us'"),
        ("take from nowhere", "method = 'take'", "`take` does not say from where"),
        ("no number", "method = 'dare'\nlambda = 1e999", "lambda of dare is 'inf', which is not a finite number"),
        ("a word", "method = 'task_arithmetic'\nsign = 'never'", "sign of task_arithmetic is 'never'"),
        ("weights", "method = 'linear'\nweight = [1, 2, 3]", "3 weights for 2 sides"),
        ("nonfinite", "method = 'linear'\nnonfinite = 'ignore'", "nonfinite is 'ignore'"),
    ]
}  # fmt: skip


@pytest.mark.slow
def test_rules_without_meaning_are_said_to_be(sides: Repo) -> None:
    for name, (content, said, status) in BROKEN.items():
        rules(sides, content)
        message, code = refused(sides)
        assert message.startswith(said), name
        assert code == status, name
    done = sides.attempt("git", "theta", "merge-plan", "side")
    assert (done.returncode, "Traceback" in done.stderr) == (status, False)


@pytest.mark.slow
def test_with_rules_without_meaning_a_merge_is_a_conflict_that_can_be_resolved(sides: Repo) -> None:
    rules(sides, "[[rule]]\nmethod = 'tise'\n")
    ours = sides.sha()
    done = sides.attempt("git", "merge", "--no-edit", "side")
    assert done.returncode == 1
    assert f"CONFLICT ({M}): no merge named 'tise' is installed (theta.toml rule 1)" in done.stderr
    assert "Traceback" not in done.stderr
    assert (sides.sha(), sides.status()) == (ours, f"UU {M}\n")
    assert "theta.toml rule 1" in sides.git("theta", "conflicts")
    sides.git("theta", "resolve", M, "take", "--from", "theirs")
    sides.git("commit", "-q", "-a", "--no-edit")
    assert sides.read() == checkpoint(THEIRS)
    sides.healthy()


@pytest.mark.slow
def test_what_is_wrong_with_git_config(sides: Repo) -> None:
    for key, value, said, status in [
        ("method", "", "not a method: '' (git -c theta.merge)", 51),
        ("method", "TIES", "not a method: 'TIES' (git -c theta.merge)", 51),
        ("method", "nonesuch", "(git -c theta.merge)", 10),
        ("more.method", "ties", "not an option: 'more.method' (git -c theta.merge)", 51),
        ("density", "0.2", "no option 'density' in linear", 40),
        ("weight", "1,2,3", "3 weights for 2 sides (weight=1,2,3)", 40),
    ]:
        message, code = refused(sides, {key: value})
        assert said in message
        assert code == status
    assert "'den sity' (the command line)" in refused(sides, None, **{"den sity": "1"})[0]
    message = sides.fails("-c", "theta.merge.method", "theta", "merge-plan", "--no-numbers", "side", status=51)
    assert "theta.merge.method has no value" in message
    sides.git("config", "theta.device", "toaster")
    assert "not a device: 'toaster'" in sides.fails("merge", "--no-edit", "side", status=1)
    assert sides.status() == f"UU {M}\n"


@pytest.mark.slow
def test_an_option_given_once_is_not_forgotten_when_it_turns_out_to_be_wrong(sides: Repo) -> None:
    """Nothing may look resolved while the file in the work tree is only ours."""
    sides.fails("-c", "theta.merge.method=take", "merge", "--no-edit", "side", status=1)
    assert "`take` does not say from where (git -c theta.merge)" in sides.git("theta", "conflicts")
    (conflict,) = json.loads(sides.git("theta", "conflicts", "--json"))
    assert (len(conflict["tensors"]), conflict["settled"]) == (3, False)
    sides.git("-c", "theta.merge.weight=1,-1", "checkout", "--merge", "--", M)
    listed = sides.git("theta", "conflicts")
    assert listed.count("the weights sum to zero") == 3


@pytest.mark.slow
def test_ask_me(sides: Repo) -> None:
    rules(sides, "[[rule]]\ntensors = 'layer.*'\nmethod = 'conflict'\n" + TAKE_BASE)
    sides.git("checkout", "-q", "side")
    more = checkpoint(THEIRS | {"still": normal(33, 3)})
    sides.commit(more)
    sides.git("checkout", "-q", "main")
    said = sides.fails("merge", "--no-edit", "side", status=1)
    assert said.count("CONFLICT") == 2
    assert "tensor 'layer.up': changed differently on all sides, and you want to be asked" in said
    sides.git("theta", "resolve", M, "take", "--from", "ours")
    sides.git("commit", "-q", "-a", "--no-edit")
    assert sides.read() == checkpoint(OURS | {"embed.weight": BASE["embed.weight"], "still": normal(33, 3)})
    sides.healthy()


@pytest.mark.slow
def test_what_persists_for_merges_does_not_apply_to_picks(sides: Repo) -> None:
    sides.git("config", "theta.merge.method", "take")
    sides.git("config", "theta.merge.from", "theirs")
    sides.git("config", "theta.merge.density", "0.1")
    sides.git("cherry-pick", "side")
    added = np.frombuffer(tensors_of(sides.read())["layer.up"][2], np.float32).reshape(6, 4)
    sum_of_all = OURS["layer.up"].astype(np.float64) + THEIRS["layer.up"] - BASE["layer.up"].astype(np.float64)
    np.testing.assert_allclose(added, sum_of_all, rtol=1e-6, atol=1e-6)
    sides.git("reset", "-q", "--hard", "HEAD^")
    sides.git("-c", "theta.merge.method=take", "-c", "theta.merge.from=theirs", "cherry-pick", "side")
    assert sides.read() == checkpoint(THEIRS)


@pytest.mark.slow
def test_what_is_set_for_picks(sides: Repo) -> None:
    def chosen(once: Mapping[str, str] | None = None) -> str:
        with configured(once), Workspace.open(sides.path) as workspace:
            choice = read_policy(workspace, [M]).choice(M, "layer.up", Verb.PICK)
            return f"{choice.method} {choice.option('from') or choice.option('lambda')}"

    assert chosen() == "pick None"
    sides.git("config", "theta.merge.lambda", "3")
    assert chosen() == "pick None"
    rules(sides, "[[rule]]\nverbs = ['merge', 'pick']\nmethod = 'take'\nfrom = 'theirs'\n")
    assert chosen() == "take theirs"
    sides.git("config", "theta.Pick.FROM", "base")
    assert chosen() == "take base"
    assert chosen({"merge.from": "ours"}) == "take ours"
    assert chosen({"merge.method": "dare", "pick.method": "pick", "pick.lambda": "2"}) == "pick 2"


@pytest.mark.slow
def test_who_wants_to_be_asked_is_asked_by_picks_too(sides: Repo) -> None:
    sides.git("config", "theta.merge.method", "conflict")
    assert "you want to be asked" in sides.fails("cherry-pick", "side", status=1)
    sides.git("cherry-pick", "--abort")
    (sides.path / "other").write_text("x")
    sides.write(M, checkpoint(OURS | {"layer.up": normal(99, 6, 4)}))
    sides.git("stash")
    sides.git("reset", "-q", "--hard", "side")
    assert "you want to be asked" in sides.attempt("git", "stash", "pop").stderr
    assert sides.read() == checkpoint(THEIRS)
