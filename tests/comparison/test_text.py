"""The same tables for a terminal, as Markdown and as LaTeX; names are only ever text."""

import io
import re

import pytest
from comparison_runs import METRICS, comparison
from rich.console import Console

from coterie.comparison.grids import main_grid
from coterie.comparison.text import latex, markdown, terminal

AWKWARD = r"a_b 100% |x| $y^2$ {z} \n ~ #1 <i> & *c* `d` [e](f)"


def shown(found, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(terminal(found))
    return console.file.getvalue()


@pytest.mark.parametrize("metrics", [METRICS[:1], METRICS, (*METRICS, *METRICS)])
def test_terminal_is_80_wide_and_whole(metrics):
    names = {"base": 0.0, "a-rather-long-name-of-a-model-without-end": 0.4, "[bold]no": -0.2}
    found = comparison(names, metrics=metrics)
    text = shown(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    figure = found.figure("[bold]no", METRICS[0])
    assert f"{figure.mean:.4f} ±{figure.deviation:.4f}" in text
    assert "[bold]no" in text
    squeezed = re.sub(r"\s+", "", text)
    assert "<0.0001|" in squeezed
    for word in ("5–10", "11–50", "trains(epoch)", "peakMiB", "(10–12)"):
        assert word in squeezed


def test_markdown_tables_are_whole_whatever_the_name():
    found = comparison({"base": 0.0, AWKWARD: 0.4})
    lines = markdown(found).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
    assert {len(row) for row in cells[:4]} == {len(main_grid(found).head)}
    unescaped = re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", cells[3][0].strip())
    assert unescaped == AWKWARD
    assert not re.search(r"(?<!\\)[_*`<|\[$]", cells[3][0].strip())
    good = found.figure(AWKWARD, METRICS[0])
    assert f"**{good.mean:.4f} ±{good.deviation:.4f}**" in cells[3][1]
    assert "invented \\& \\<data\\>" in lines[2]


def test_latex_escapes_names_and_balances():
    found = comparison({"base": 0.0, AWKWARD: 0.4})
    text = latex(found)
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    expected = (
        r"a\_b 100\% $|$x$|$ \$y\textasciicircum{}2\$ \{z\} \textbackslash{}n \textasciitilde{} "
        r"\#1 $<$i$>$ \& *c* `d` [e](f) & "
    )
    assert expected in body
    for width, tabular in re.findall(r"tabular\}\{l(r+)\}(.*?)\\end\{tabular", body, re.DOTALL):
        rows = re.findall(r"^.* \\\\$", tabular, re.MULTILINE)
        assert len(rows) == 3
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(width)}
    plain = re.sub(r"\\[{}$%&#_]", "", body)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    for part in ("table", "tabular"):
        assert body.count(rf"\begin{{{part}}}") == body.count(rf"\end{{{part}}}") == 4
    assert set(re.findall(r"\\usepackage\{(\w+)\}", text)) == {"booktabs"}
    assert body.isascii()
