"""Flags win over the environment, it over the file, it over the defaults."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from app.config.load import SettingsError, load_settings
from app.config.model_choice import Models, build_chat, chosen_models, tree_choice
from app.config.settings import Settings
from sequoia_core.config import GraphChoice, Lookup, Mode, Offload, Quantize, WeightFormat
from sequoia_core.errors import GrowMapError, ParameterError
from sequoia_core.events import Progress
from sequoia_core.tree.choice import DynamicTree, TreeChoice
from sequoia_core.tree.files import find_growmap

SAMPLES: dict[str, tuple[str, Any]] = {
    "pair": ("llama-2-7b", "llama-2-7b"),
    "target": ("a/b", "a/b"),
    "draft": ("c/d", "c/d"),
    "dtype": ("float32", "float32"),
    "device": ("cpu", "cpu"),
    "weights": ("int8", WeightFormat.INT8),
    "quantize": ("nf4", Quantize.NF4),
    "offload": ("disk", Offload.DISK),
    "graphs": ("off", GraphChoice.OFF),
    "tensor_parallel": ("2", 2),
    "context_window": ("4096", 4096),
    "insight": ("false", False),
    "record": ("false", False),
    "mode": ("chain", Mode.CHAIN),
    "growmap": ("chain/2", "chain/2"),
    "show_tree": ("true", True),
    "lookup": ("on", Lookup.ON),
    "temperature": ("1.5", 1.5),
    "top_p": ("0.5", 0.5),
    "top_k": ("3", 3),
    "seed": ("11", 11),
    "max_new_tokens": ("77", 77),
    "system": ("You are terse.", "You are terse."),
    "stop": ("END", ("END",)),
    "theme": ("paper", "paper"),
    "accessible": ("true", True),
    "vim_keys": ("true", True),
    "keys": ('{"chat.tree": "f9"}', {"chat.tree": ("f9",)}),
}


def write_config(folder: Path, text: str) -> None:
    (folder / "config.toml").write_text(text)


def test_there_is_a_sample_of_every_setting() -> None:
    assert SAMPLES.keys() == {each.name for each in fields(Settings)}


def test_without_anything_the_defaults_are_the_chats() -> None:
    assert load_settings({}) == Settings()


@pytest.mark.parametrize("name", SAMPLES)
def test_each_setting_is_read_from_each_place(
    config_home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text, value = SAMPLES[name]
    defaults = load_settings({})
    quoted = text if isinstance(value, (int, float)) else f'"{text}"'
    if isinstance(value, dict):
        quoted = text.replace(":", " =")
    write_config(config_home, f"{name} = {quoted}\n")
    from_file = load_settings({})
    (config_home / "config.toml").unlink()
    monkeypatch.setenv(f"SEQUOIA_{name.upper()}", text)
    from_environment = load_settings({})
    monkeypatch.delenv(f"SEQUOIA_{name.upper()}")
    from_flag = load_settings({name: value})
    for settings in (from_file, from_environment, from_flag):
        assert getattr(settings, name) == value
        others = SAMPLES.keys() - {name}
        assert all(getattr(settings, field) == getattr(defaults, field) for field in others)


def test_a_higher_place_wins(config_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(config_home, "temperature = 0.1\ntop_k = 1\nseed = 1\n")
    monkeypatch.setenv("SEQUOIA_TEMPERATURE", "0.2")
    monkeypatch.setenv("SEQUOIA_TOP_K", "2")
    settings = load_settings({"temperature": 0.3})
    assert (settings.temperature, settings.top_k, settings.seed) == (0.3, 2, 1)


def test_several_stop_strings_are_a_list_in_the_file(config_home: Path) -> None:
    write_config(config_home, 'stop = ["a", "b"]\n')
    assert load_settings({}).stop == ("a", "b")


def test_a_target_from_above_drops_the_pair_and_draft_below(
    config_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(config_home, 'target = "file/target"\ndraft = "file/draft"\n')
    settings = load_settings({"pair": "embedded"})
    assert (settings.pair, settings.target, settings.draft) == ("embedded", None, None)
    monkeypatch.setenv("SEQUOIA_TARGET", "env/target")
    settings = load_settings({})
    assert (settings.target, settings.draft) == ("env/target", None)
    settings = load_settings({"draft": "flag/draft"})
    assert (settings.target, settings.draft) == ("env/target", "flag/draft")


def test_a_pair_and_a_target_in_one_place_are_refused(config_home: Path) -> None:
    write_config(config_home, 'target = "a"\npair = "embedded"\n')
    with pytest.raises(ParameterError, match="both a pair and a target"):
        load_settings({})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"temperature = = 1", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b"a = " + b"[" * 20_000, "nested too deep"),
        (b"#" * 2_000_000, "more than 1,000,000 bytes"),
        (b"temprature = 1", "there is temperature"),
        (b"[temperature]", "temperature: should be a number"),
        (b'dtype = "int3"', "dtype: should be auto, float32"),
        (b'seed = "x"', "seed: should be a whole number"),
        (b"temperature = true", "temperature: should be a number, not True"),
        (b"top_k = false", "top_k: should be a whole number, not False"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(
    config_home: Path, content: bytes, words: str
) -> None:
    (config_home / "config.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=words) as caught:
        load_settings({})
    assert str(config_home / "config.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_named(config_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("app.config.load.read_text", refuse)
    with pytest.raises(SettingsError, match=r"config\.toml: Permission denied"):
        load_settings({})


def test_a_broken_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQUOIA_TOP_K", "many")
    with pytest.raises(SettingsError, match=r"^SEQUOIA_TOP_K: .*, not 'many'$"):
        load_settings({})


def test_a_broken_flag_is_named() -> None:
    with pytest.raises(ParameterError, match=r"^--top-k: "):
        load_settings({"top_k": "many"})


def test_other_variables_of_ours_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQUOIA_SOMETHING_ELSE", "1")
    assert load_settings({}) == Settings()


@pytest.mark.parametrize(
    ("flags", "target", "draft", "remark"),
    [
        ({}, None, None, ""),
        ({"draft": "none"}, None, "none", ""),
        ({"pair": "embedded"}, None, None, ""),
        (
            {"pair": "tinyllama-1.1b"},
            "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
            "JackFram/llama-68m",
            "",
        ),
        ({"pair": "llama-2-7b", "draft": "x"}, "meta-llama/Llama-2-7b-chat-hf", "x", ""),
        ({"target": "some/model"}, "some/model", None, ""),
        ({"target": "some/model", "draft": "x"}, "some/model", "x", ""),
        (
            {"target": "lmsys/vicuna-33b-v1.3"},
            "lmsys/vicuna-33b-v1.3",
            "princeton-nlp/Sheared-LLaMA-1.3B",
            "catalogue",
        ),
    ],
)
def test_what_a_choice_of_models_comes_to(
    flags: dict[str, str], target: str | None, draft: str | None, remark: str
) -> None:
    models = chosen_models(load_settings(flags))
    assert (models.target, models.draft) == (target, draft)
    assert remark in models.remark
    assert bool(models.remark) == bool(remark)
    assert isinstance(models, Models)


def test_auto_leaves_the_shape_to_the_machine() -> None:
    chosen = tree_choice(load_settings({"mode": Mode.GREEDY}))
    assert chosen == TreeChoice(Mode.GREEDY, None, lookup=Lookup.AUTO)
    chosen = tree_choice(load_settings({"growmap": "adaptive", "lookup": "off"}))
    assert chosen == TreeChoice(adaptive=True, lookup=Lookup.OFF)
    chosen = tree_choice(load_settings({"growmap": "measured"}))
    assert chosen == TreeChoice(adaptive=False, lookup=Lookup.AUTO)
    chosen = tree_choice(load_settings({"growmap": "dynamic", "mode": "topk"}))
    assert chosen == TreeChoice(Mode.TOPK, dynamic=DynamicTree(), lookup=Lookup.AUTO)
    chosen = tree_choice(load_settings({"growmap": "dynamic:30x4x5", "mode": "greedy"}))
    assert chosen.dynamic == DynamicTree(30, 4, 5)
    chosen = tree_choice(load_settings({"growmap": "chain/2"}))
    assert chosen.growmap == find_growmap("chain/2")
    with pytest.raises(GrowMapError, match="chain/4"):
        tree_choice(load_settings({"growmap": "chain/5"}))


def test_the_engine_is_built_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import sequoia_core

    calls: list[Any] = []

    def load_pair(*models: str | None, progress: Progress, **options: object) -> str:
        progress("Loading", 0.5)
        calls.append((models, options))
        return "the pair"

    def conversation(pair: str, **options: object) -> str:
        calls.append((pair, options))
        return "the chat"

    monkeypatch.setitem(vars(sequoia_core), "load_pair", load_pair)
    monkeypatch.setitem(vars(sequoia_core), "Conversation", conversation)
    flags = {"target": "a", "draft": "b", "dtype": "float32", "system": "Brief"}
    settings = load_settings({**flags, "device": "cpu", "growmap": "chain/2"})
    chat = build_chat(settings, lambda *said: calls.append(said))
    assert chat == "the chat"  # type: ignore[comparison-overlap]
    choice = TreeChoice(Mode.SEQUOIA, find_growmap("chain/2"), lookup=Lookup.AUTO)
    assert calls == [
        ("Loading", 0.5),
        (
            ("a", "b"),
            {
                "dtype": "float32",
                "device": "cpu",
                "weights": WeightFormat.AUTO,
                "offload": Offload.NONE,
                "graphs": GraphChoice.AUTO,
                "tensor_parallel": 1,
                "context_window": None,
                "quantize": Quantize.NONE,
            },
        ),
        ("the pair", {"system_prompt": "Brief", "tree_choice": choice, "insight": False}),
    ]


def test_a_missing_shape_is_found_out_before_models_load(monkeypatch: pytest.MonkeyPatch) -> None:
    import sequoia_core

    monkeypatch.setitem(vars(sequoia_core), "load_pair", pytest.fail)
    with pytest.raises(GrowMapError):
        build_chat(load_settings({"growmap": "nowhere"}), lambda _message, _fraction: None)


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ('[keys]\n"chat.tree" = "f9"\n', {"chat.tree": ("f9",)}),
        ('[keys]\nchat.tree = "f9, ctrl+t"\n', {"chat.tree": ("f9", "ctrl+t")}),
        ('[keys.chat]\ntree = ["f9", ","]\n', {"chat.tree": ("f9", ",")}),
        ('[keys]\nchat.step = ","\n', {"chat.step": (",",)}),
        ("[keys]\n", {}),
    ],
)
def test_keys_are_written_in_any_way_toml_has(
    config_home: Path, table: str, keys: dict[str, tuple[str, ...]]
) -> None:
    write_config(config_home, table)
    settings = load_settings({})
    assert settings.keys == keys


@pytest.mark.parametrize("table", ["keys = 3", "[keys]\nchat.tree = 3", "keys = ['f9']"])
def test_keys_of_another_kind_are_one_line(config_home: Path, table: str) -> None:
    write_config(config_home, table)
    with pytest.raises(SettingsError, match="keys: ") as caught:
        load_settings({})
    assert "\n" not in str(caught.value)
