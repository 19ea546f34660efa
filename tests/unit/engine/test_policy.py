"""Which rule decides about a tensor, and which rules there can be."""

from __future__ import annotations

import pytest

from gittheta.engine.policy import (
    Policy,
    Rule,
    Verb,
    attribute_rule,
    literal,
    literal_path,
    options_rule,
    parse_rules,
    path_fits,
)
from gittheta.errors import ConfigError, ThetaError

MERGE = frozenset({Verb.MERGE})


def chosen(rules: tuple[Rule, ...], tensor: str = "w", path: str = "m.safetensors", verb: Verb = Verb.MERGE) -> str:
    """Method and options, as one reads them."""
    choice = Policy(rules).choice(path, tensor, verb)
    return " ".join(
        [choice.method, *(f"{key}={value}" for key, value in {**dict(choice.options), **dict(choice.offered)}.items())]
    )


def test_the_first_rule_that_fits_decides() -> None:
    rules = parse_rules(
        """
        [[rule]]
        tensors = ["*embed*", "lm_head*"]
        method = "linear"
        [[rule]]
        tensors = "*norm*"
        method = "take"
        from = "ours"
        [[rule]]
        path = "models/*.safetensors"
        method = "ties"
        density = 0.3
        weight = [2, 0.5]
        scope = "global"
        normalize = false
        """
    )
    assert chosen(rules, "model.embed_tokens.weight") == chosen(rules, "lm_head.weight") == "linear"
    assert chosen(rules, "layer.0.norm.weight") == "take from=ours"
    block = "layers.0.q_proj"
    assert chosen(rules, block, "models/a.safetensors") == "ties density=0.3 normalize=false scope=global weight=2,0.5"
    assert chosen(rules, block, "old/a.safetensors") == chosen((), block) == "linear"
    assert [rule.source for rule in rules] == [f"theta.toml rule {number}" for number in (1, 2, 3)]


def test_what_is_set_for_merges_is_not_for_picks() -> None:
    rules = parse_rules(
        '[[rule]]\nmethod = "ties"\n[[rule]]\nverbs = ["merge", "pick"]\nmethod = "take"\nfrom = "base"'
    )
    assert chosen(rules) == "ties"
    assert chosen(rules, verb=Verb.PICK) == "take from=base"
    assert chosen(rules[:1], verb=Verb.PICK) == "pick"
    assert chosen(parse_rules('[[rule]]\nverbs = "pick"\nlambda = 2'), verb=Verb.PICK) == "pick lambda=2"


def test_who_asks_to_be_asked_means_whatever_is_done_unless_the_rule_says_when() -> None:
    assert chosen(parse_rules('[[rule]]\nmethod = "conflict"'), verb=Verb.PICK) == "conflict"
    assert chosen((attribute_rule("conflict"),), verb=Verb.PICK) == "conflict"
    assert chosen(parse_rules('[[rule]]\nmethod = "conflict"\nverbs = "merge"'), verb=Verb.PICK) == "pick"


def test_options_without_a_method_go_to_whatever_method_another_rule_names() -> None:
    strong, weak = options_rule("a", {"density": 0.3}, MERGE), options_rule("b", {"density": 0.1, "lambda": 2}, MERGE)
    method = options_rule("c", {"method": "ties", "density": 0.9, "seed": 1}, MERGE)
    assert chosen((strong, weak, method)) == "ties density=0.3 seed=1 lambda=2"
    assert chosen((strong, weak)) == "linear density=0.3 lambda=2"
    assert chosen((method, strong)) == "ties density=0.9 seed=1"


def test_rules_that_come_first_win_over_others() -> None:
    policy = Policy((options_rule("weak", {"method": "ties"}, MERGE),))
    assert (
        policy.preceded_by(options_rule("strong", {"method": "dare"}, MERGE)).choice("p", "t", Verb.MERGE).method
        == "dare"
    )


@pytest.mark.parametrize(
    ("glob", "path", "fits"),
    [
        ("*", "a/b.safetensors", True),
        ("*.safetensors", "a/b.safetensors", True),
        ("b.safetensors", "a/b.safetensors", True),
        ("a/*", "a/b/c.safetensors", True),
        ("/b.safetensors", "a/b.safetensors", False),
        ("/a/b.safetensors", "a/b.safetensors", True),
        ("a/*.pt", "a/b.safetensors", False),
        ("*/b.safetensors", "b.safetensors", False),
        ("B.safetensors", "b.safetensors", False),
        ("[ab].safetensors", "b.safetensors", True),
        ("[b.safetensors", "b.safetensors", False),
        ("[z-a].safetensors", "b.safetensors", False),
        ("*a" * 40 + "b", "a" * 4000, False),
    ],
)
def test_path_globs(glob: str, path: str, fits: bool) -> None:
    assert path_fits(glob, path) is fits


@pytest.mark.parametrize(
    "name", ["plain", "a[0].b", "*", "what?", "[", "]", "[!x]", "a b", "é\n", "dir/[x]*.safetensors"]
)
def test_a_literal_fits_itself_and_nothing_else(name: str) -> None:
    assert Rule("test", tensors=(literal(name),)).is_about(name)
    assert not any(
        Rule("test", tensors=(literal(name),)).is_about(other) for other in (f"{name}x", f"x{name}", "0", "x")
    )
    assert path_fits(literal_path(name), name)
    assert not path_fits(literal_path(name), f"deeper/{name}")


def test_attributes() -> None:
    assert attribute_rule("ties:density=0.2:LAMBDA=2").options == (("density", "0.2"), ("lambda", "2"))
    assert attribute_rule("ties").method == "ties"
    for text in (":density=1", "ties::", "ties:=1", "TIES OR ELSE", "ties:density=1:density=2"):
        with pytest.raises(ThetaError, match="attribute theta-merge"):
            attribute_rule(text)


def test_keys_may_have_capitals_and_dashes() -> None:
    rule = options_rule("git config theta.merge", {"Max-Norm": "1", "LAMBDA": "2"}, MERGE)
    assert rule.options == (("lambda", "2"), ("max_norm", "1"))
    with pytest.raises(ConfigError, match="twice"):
        options_rule("the command line", {"a-b": 1, "a_b": 2}, MERGE)


#: A theta.toml, and what is said about it.
BROKEN = {
    "no toml": ("[[rule", "not valid TOML"),
    "a key of its own": ('method = "ties"', "'method' means nothing here"),
    "escape sequences are shown, not sent": (r'"\u001b[31m" = 1', r"'\\x1b\[31m' means nothing"),
    "one table": ('[rule]\nmethod = "ties"', "not a list of tables"),
    "a number": ("rule = 3", "not a list of tables"),
    "a key twice": ('[[rule]]\nmethod = "a"\nmethod = "b"', "not valid TOML"),
    "a key twice, in capitals": ("[[rule]]\ndensity = 1\nDensity = 2", "rule 1: 'Density' appears twice"),
    "a method that is a number": ("[[rule]]\nmethod = 3", "rule 1: not a method: 3"),
    "a list of methods": ('[[rule]]\nmethod = ["ties"]', "rule 1: not a method: "),
    "an empty method": ('[[rule]]\n[[rule]]\nmethod = ""', "rule 2: not a method: ''"),
    "a date": ('[[rule]]\nmethod = "ties"\ndensity = 1979-05-27', "rule 1: not the value of an option: .*1979"),
    "a table": ('[[rule]]\nmethod = "ties"\ndensity = {a = 1}', "rule 1: not the value of an option"),
    "an empty list": ('[[rule]]\nmethod = "ties"\nweight = []', "rule 1: not the value of an option"),
    "a list of lists": ('[[rule]]\nmethod = "ties"\nweight = [[1]]', "rule 1: not the value of an option"),
    "no verb": ('[[rule]]\nverbs = ["melt"]', "rule 1: .*merge and pick"),
    "no verbs": ("[[rule]]\nverbs = []", "rule 1: verbs must be"),
    "tensors that are a number": ("[[rule]]\ntensors = 3", "rule 1: tensors must be"),
    "two paths": ('[[rule]]\npath = ["a", "b"]', "rule 1: path must be one glob"),
    "an odd key": ('[[rule]]\n"a b" = 1', "rule 1: not an option: 'a b'"),
    "a very long number": ("[[rule]]\nseed = " + "9" * 5000, "not valid TOML"),
    "a very long hexadecimal number": ("[[rule]]\nseed = 0x" + "f" * 9000, "rule 1: .*digits"),
    "deep": ("[[rule]]\nx = " + "[" * 99999, "not valid TOML"),
    "deep keys": (f"a{'.a' * 99999} = 1", "dots in a line"),
    "huge": ("#" * (1 << 19), "256 KiB"),
    "binary": ("\0\1", "not valid TOML"),
}


@pytest.mark.parametrize("text", BROKEN)
def test_rules_that_mean_nothing_are_an_error_that_names_them(text: str) -> None:
    content, message = BROKEN[text]
    with pytest.raises(ConfigError, match=f"^theta.toml: .*{message}") as caught:
        parse_rules(content)
    assert caught.value.hint
    assert len(str(caught.value)) < 500


def test_no_rules() -> None:
    assert parse_rules("") == parse_rules("# nothing yet\n") == parse_rules("rule = []") == ()
    assert parse_rules('\ufeff[[rule]]\r\nmethod = "ties"\r\n')[0].method == "ties"
