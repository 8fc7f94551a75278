"""What a model wrote can be read, whatever it wrote and however narrow the terminal is."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.style import Style

from app.present.chunks import Chunks
from app.present.markdown import MarkdownRenderer

PEN = MarkdownRenderer(Style(bold=True), Style(), Style(), "#222222", "monokai")


def drawn(text: str, width: int = 60) -> list[str]:
    return ["".join(part.text for part in line).rstrip() for line in PEN.draw(text, width)]


def words(text: str, width: int = 60) -> str:
    """All that is shown, on one line."""
    return " ".join(" ".join(drawn(text, width)).split())


@pytest.mark.parametrize(
    "text",
    [
        r"so \( a_1 \) and \(b_2 * c * d\)",
        r"so \[ x^2 \] holds",
        r"$\{1,2\}$ and a\,b and \;c\! and 5\%",
        r"$a_1 * b_1 * c_1$, $x_i$ and $$y_i * z_i * w$$",
        r"\begin{cases} a \\ b \end{cases}",
        r"a path C:\\dir\[new\] and \alpha",
        "2*3*4 = 24, a*b*c, x**2 + y**2, f(x)*g(x), 2*(3+4)*5",
        "costs $5 and $10 or 5$",
        "the $n$th of $x_1 * y_1$ and $x_2$",
        "COUNT(*) and SUM(*), src/*.py and test/*.py, a[*] and b[*], Some(_) and None(_)",
        "f(*args, **kwargs), __init__.py, __name__ and /* c */",
        "&lt;b&gt; &amp; &nbsp; &copy; &#x202e; &#0;",
        "<think>so</think> <b>x</b> <br> <!-- c -->",
        "a footnote[^1] and [^2]",
        "[^1]: http://example.org",
        "[label]: http://example.org 'title'",
        "[text][label] and [other]",
        "a [ ] b and snake_case_name",
        r"the pattern ^\d+\.\w* and [a-z]\-\+",
        "auto f = [](){ return 1; }; auto g = [=](x); [](http://x.org)",
        "handlers[name](event), f(x)[0](y), a[i][j](k) and see[1](http://x.org)",
        r"inline \begin{pmatrix} x^*_i & y^*_j \\ a*b*c \end{pmatrix} end",
        "#hashtag and #1",
        "[bold]not bold[/bold] and [link=x]y[/link]",
        "<div>html</div>, a <b>tag</b> and :smile:",
        "1986",
    ],
)
def test_text_that_is_no_markup_stands_as_it_was_written(text: str) -> None:
    assert words(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"\*a\* \_b\_ \# \`c\` \| \~ 1\. \- \+ \$5", "*a* _b_ # `c` | ~ 1. - + $5"),
        ("**bold** *em* ~~gone~~ `code`", "bold em gone code"),
        ("这是**重点**内容", "这是重点内容"),
        ("(**a**) *b*, __C d__ _e_ **$f** and **$g**", "(a) b, C d e $f and $g"),
        ('[a](http://x.org "why")', 'a (http://x.org "why")'),
        ("[a](http://x.org/ü_b)", "a (http://x.org/ü_b)"),
        ("<http://x.org>", "http://x.org"),
        ("<a@x.org> [a@x.org](mailto:a@x.org)", "a@x.org a@x.org"),
        ("[http://x.org](http://x.org)", "http://x.org"),
        ('see ![a **b**](p.png "t") here', 'see 🌆 a b (p.png "t") here'),
        ("[![alt](i.png)](u)", "🌆 alt (i.png) (u)"),
        ("- [x] done\n- [ ] open", "• [x] done • [ ] open"),
        ("3. c\n5. e\n7) g", "3 c 5 e 7 g"),
        ("# C#\n\n## title ##", "C# title"),
        ("a  \nb\\\nc", "a b c"),
        ("Term\n: what it means", "Term : what it means"),
        ("```python\nx = 1", "x = 1"),
        ("```rm -rf x\ny\n```", "rm -rf x y"),
        ('```python title="a.py"\nx\n```', 'python title="a.py" x'),
        ("~~~ nonsense\nx\n~~~", "nonsense x"),
        ("[a](u&#x202e;v)", "a (u�v)"),
    ],
)
def test_markup_shows_all_that_it_says(text: str, shown: str) -> None:
    assert words(text) == shown


def test_links_are_text_and_no_terminal_hyperlinks() -> None:
    lines = PEN.draw("[here](http://example.org)", 60)
    assert all(part.style is None or part.style.link is None for line in lines for part in line)


@pytest.mark.parametrize("fence", [("$$", "$$"), (r"\[", r"\]")])
def test_a_formula_of_several_lines_stands_as_it_was_written(fence: tuple[str, str]) -> None:
    lines = ["text", fence[0], r"  a_1 * b \\", "- c_2 * d", "= e", "# f", fence[1], "after"]
    assert drawn("\n".join(lines)) == [*lines[:1], "", *lines[1:7], "", "after"]
    assert words(f"{fence[0]}\na\n\n**b**") == f"{fence[0]} a b"


def test_an_environment_of_tex_stands_as_it_was_written() -> None:
    lines = [r"\begin{align*}", r"x^*_{i} &= y^*_{j} \\", "c &= *d*", r"\end{align*}"]
    assert drawn("\n".join(["text", *lines, "after"])) == ["text", "", *lines, "", "after"]


def test_lines_end_where_they_were_ended() -> None:
    assert drawn("Roses are *red\nViolets* are blue") == ["Roses are red", "Violets are blue"]
    assert drawn("- one\n  two") == [" • one", "   two"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("#", "#"), ("###", "###"), ("-", " -"), ("*", " *"), ("+", " +"), ("1.", " 1."),
     ("7)", " 7)"), (">", "▌"), ("- a\n-\n- b", " • a, -, • b")],
)  # fmt: skip
def test_a_mark_without_text_is_shown(text: str, shown: str) -> None:
    assert ", ".join(drawn(text)).replace(",  ", ", ") == shown


TABLE = "| " + " | ".join(f"c{at}" for at in range(12)) + " |\n" + "|-" * 12 + "|\n"
ROW = "| " + " | ".join(f"value{at}" for at in range(12)) + " |\n"


def test_a_table_without_room_for_its_columns_becomes_records() -> None:
    assert drawn(TABLE + ROW, 24) == [f"c{at}: value{at}" for at in range(12)]
    assert drawn(TABLE + ROW + ROW, 24)[12] == "─" * 24
    assert drawn(TABLE, 24) == [f"c{at}" for at in range(12)]


def test_cells_wrap_and_none_is_dropped() -> None:
    text = "| Setting | Meaning |\n|---|---|\n| `max_position_embeddings` | the most positions |"
    for width in range(10, 60):
        name = "".join(line.split("  ")[0].strip() for line in drawn(text, width))
        assert "max_position_embeddings" in name.replace(":", "").replace("Setting", "")
        assert all(cell_len(line) <= width for line in drawn(text, width))
    extra = "| a | b |\n|---|---|\n| 1 | 2 | 3 | *4* |\n| 5 |"
    assert words(extra).split()[-5:] == ["1", "2", "3", "4", "5"]


WORD = st.text("ABCDEFGHIJ0123456789", min_size=1, max_size=14)
INLINE = st.lists(
    st.one_of(
        WORD,
        WORD.map("**{}**".format),
        WORD.map("*{}*".format),
        WORD.map("`{}`".format),
        WORD.map("${}_1$".format),
        WORD.map("[{}](http://X.org 'T')".format),
        WORD.map("![{}](P.png)".format),
        WORD.map("<{}>".format),
        WORD.map("&{};".format),
        WORD.map("[^{}]".format),
        st.sampled_from(["*", "_", "\\", "|", "$", "~~", "[", "](", "<", "`", "\\(", "**", "!["]),
    ),
    min_size=1,
    max_size=8,
).map(" ".join)
ROWS = st.lists(st.lists(INLINE, min_size=1, max_size=9), min_size=1, max_size=4)
BLOCK = st.one_of(
    INLINE,
    INLINE.map("# {} #".format),
    st.tuples(st.integers(0, 9), INLINE).map(lambda it: "".join("  " * it[0] + "- " + it[1])),
    st.tuples(st.integers(1, 99999), INLINE).map(lambda it: f"{it[0]}. {it[1]}"),
    st.tuples(st.integers(1, 12), INLINE).map(lambda it: "> " * it[0] + it[1]),
    st.tuples(st.sampled_from(["", "python", "bash X"]), INLINE).map(
        lambda it: f"```{it[0]}\n{it[1]}\n```"
    ),
    INLINE.map("```\n{}".format),
    INLINE.map("$$\n{}\n$$".format),
    INLINE.map("[A]: {}".format),
    INLINE.map("    {}".format),
    ROWS.map(
        lambda rows: "\n".join(
            ["| " + " | ".join(rows[0]) + " |", "|-" * len(rows[0]) + "|"]
            + ["| " + " | ".join(row) + " |" for row in rows]
        )
    ),
    st.integers(2, 30).map(lambda deep: "".join("  " * at + f"- D{at}\n" for at in range(deep))),
)


@settings(deadline=None, max_examples=120)
@given(st.lists(BLOCK, max_size=5), st.sampled_from(["\n", "\n\n"]), st.integers(10, 160))
def test_every_letter_and_digit_is_shown_and_nothing_beside_the_view(
    blocks: list[str], between: str, width: int
) -> None:
    text = between.join(blocks)
    chunks = Chunks()
    chunks.add(text)
    sources = [*(chunk.source for chunk in chunks.final), chunks.tail]
    lines = [line for source in sources for line in drawn(source, width)]
    wanted = Counter(each for each in text if each.isupper() or each.isdigit())
    assert wanted - Counter("".join(lines)) == Counter()
    assert all(cell_len(line) <= width for line in lines)
