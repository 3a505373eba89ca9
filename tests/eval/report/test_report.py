"""The outputs: the same numbers in each form, hostile names harmless in all, the page self-contained."""

import csv
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from markupsafe import escape
from rich.console import Console

from eval.base import EvalData, stem
from eval.comparison import published, tables, terminal
from eval.comparison import rows as rows_module
from eval.comparison.compare import Group, compare
from eval.comparison.rows import collect, export
from eval.report import origins, report, section
from ssl_cls.data.arrays import Arrays
from ssl_cls.errors import UserError
from ssl_cls.health import Verdict

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "a|b`c*d_e[f](http://evil)~$x$\\",
    "\\input{/etc/passwd}%&#_^{}",
    "=cmd|'/C calc'!A0",
    "@SUM(1+1)",
    "+1",
    "{{ 7*7 }}{% raw %}",
    "--><svg onload=alert(1)>",
    "[bold red]x[/]",
    "$\\frac{$",
    "#010101 用户 ☃",
)


LABELS = np.arange(360) % 10


@pytest.fixture(autouse=True)
def labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_test_labels", lambda dataset, runs: LABELS)


def _results(rng: np.random.Generator, level: float, evaluator: str) -> list[dict[str, Any]]:
    cells = [
        ("knn/v1", None, None),
        (evaluator, None, None),
        ("finetune/v1", 100, 0),
        ("finetune/v1", 100, 1),
    ]
    return [
        {"evaluator": name, "n_labels": n, "draw": draw, "correct": rng.random(360) < level} for name, n, draw in cells
    ]


@pytest.fixture
def sources(synthetic_run: Callable[..., Path]) -> Callable[..., list[Path]]:
    """Two seeds of a method and of its baselines, with predictions, logs and every setting's test score."""

    def make(name: str = "", evaluator: str = "linear/v1", dataset: str = "digits") -> list[Path]:
        rng, runs = np.random.default_rng(0), []
        for seed in range(2):
            for method, level, images in (("simclr", 0.9, 1000), ("random", 0.7, 0), ("pixels", 0.8, 0)):
                if method == "pixels" and seed:
                    continue
                run = synthetic_run(
                    f"{method}-seed{seed}",
                    name or method if method == "simclr" else method,
                    _results(rng, level, evaluator)[: 2 if method == "pixels" else 4],
                    labels=LABELS,
                    seed=seed,
                    dataset=dataset,
                    run=f"{name or method}-seed{seed}",
                    backbone="" if method == "pixels" else name or "resnet_small",
                    pretrain={"dataset": None, "images_seen": images, "view_forwards": 2 * images},
                )
                (run / "eval" / "optimism.json").write_text(
                    json.dumps(
                        {
                            stem(dataset, "knn/v1", None, None): [
                                {"settings": {}, "top1": 99.0},
                                {"settings": {}, "top1": 1.0},
                            ]
                        }
                    )
                )
                if images:
                    logged = [{"epoch": x / 10, "loss": 1 / (1 + x), "effective_rank": float(x)} for x in range(50)]
                    (run / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in logged))
                    (run / "recipe.yaml").write_text("name: </pre><script>alert(2)</script>\n")
                runs.append(run)
        return runs

    return make


def groups(sources: list[Path]) -> list[Group]:
    return compare(collect(sources))


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def self_contained(page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert (value or "").startswith(("data:", "#")), (tag, name, value)
            if name == "style":
                assert not re.search(r"url\((?!#)|@import", value or ""), value


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text_on_the_page(sources: Callable[..., list[Path]], name: str) -> None:
    page = Page(report.page(groups(sources(name, evaluator=name, dataset=name)), ["compare", name]))
    self_contained(page)
    assert f"worth it on {name}, with {name}?" in page.text  # whole, as text, not evaluated
    assert name.split("/")[0] in page.text
    assert "</pre><script>alert(2)</script>" in page.text


def test_the_page_forbids_what_it_does_not_need(sources: Callable[..., list[Path]]) -> None:
    text = report.page(groups(sources()), ["compare"])
    page = Page(text)
    self_contained(page)
    policy = next(
        a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert not re.search(r"https?://", text)  # not even a namespace
    assert not re.search(r"@import|url\((?!#)", text)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    referred = re.findall(r"#(m[0-9a-f]{10}[^\"')]*)", text)
    assert referred
    assert set(referred) <= set(ids)


def test_the_page_shows_answer_table_curves_and_optimism(sources: Callable[..., list[Path]]) -> None:
    found = groups(sources())
    page = Page(report.page(found, ["python", "tools/compare.py", "a b"]))
    (group,) = found
    for line in group.lines:
        for cell in line.cells.values():
            assert f"{cell.mean:.1f}" in page.text
    assert "Yes. Fine-tuned simclr beats training from scratch" in page.text
    assert "python tools/compare.py 'a b'" in page.text
    reported = [row.top1 for row in group.lines[0].rows[group.columns[0]]]
    assert f"{99 - np.mean(reported):+.2f}" in page.text  # best on test minus reported
    assert sum(tag == "svg" for tag, _ in page.elements) == len(group.columns) + 2  # dots; loss and effective rank


def test_each_run_says_how_its_pretraining_went(sources: Callable[..., list[Path]]) -> None:
    said = {
        "simclr-seed0": Verdict("healthy", "loss 1.2 at step 99", ""),
        "simclr-seed1": Verdict("collapsed", "all images have <b>one</b> embedding", "lower the rate"),
    }
    runs = sources()
    assert "What to try" not in Page(report.page(groups(runs), ["compare"])).text  # runs that do not say
    for run in runs:
        if run.name in said:
            (run / "encoder").mkdir()
            (run / "encoder" / "provenance.json").write_text(json.dumps({"health": said[run.name]._asdict()}))
    text = report.page(groups(runs), ["compare"])
    page = Page(text)
    assert "simclr-seed0 is healthy: loss 1.2 at step 99.\n" in page.text
    assert "simclr-seed1 is collapsed: all images have <b>one</b> embedding. What to try: lower the rate." in page.text
    assert '<span class="worse">collapsed</span>' in text
    (runs[0] / "encoder" / "provenance.json").write_text(json.dumps({"health": {"mood": "good"}}))
    with pytest.raises(UserError, match="malformed provenance"):
        report.page(groups(runs), ["compare"])


def test_an_encoder_judged_on_other_data_says_so_in_its_command(synthetic_run: Callable[..., Path]) -> None:
    both = [{"evaluator": "knn/v1", "dataset": name, "correct": LABELS < 5} for name in ("digits", "fashion_mnist")]
    run = synthetic_run(
        "simclr", "simclr", both, pretrain={"dataset": "digits/train", "images_seen": 1, "view_forwards": 2}
    )
    own, other = (list(origins.commands(group)) for group in groups([run]))
    assert own[-1] == f"python tools/evaluate.py {run} --evaluators knn"
    assert other[-1] == f"{own[-1]} data.source=fashion_mnist"


def test_the_same_rows_are_the_same_bytes(sources: Callable[..., list[Path]], tmp_path: Path) -> None:
    runs = sources()
    once, again = (report.write(groups(runs), ["compare"], tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in once] == ["comparison.md", "comparison.csv", "comparison.tex", "index.html"]
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_committed_rows_make_the_same_tables(sources: Callable[..., list[Path]], tmp_path: Path) -> None:
    runs = sources()
    export(collect(runs), tmp_path / "suite.jsonl")
    ours, committed = groups(runs), groups([tmp_path / "suite.jsonl"])
    assert sorted(tables.comma_separated(committed).splitlines()) == sorted(tables.comma_separated(ours).splitlines())
    self_contained(Page(report.page(committed, ["compare"])))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_keep_markdown_latex_and_csv_in_shape(sources: Callable[..., list[Path]], name: str) -> None:
    found = groups(sources(name, evaluator=name, dataset=name))

    width = len(tables.cells(found[0])[0])
    rows = [text for text in tables.markdown(found).splitlines() if text.startswith("| ")]
    first_table = rows[: 2 + len(found[0].lines)]
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", text)) for text in first_table} == {width + 1}
    assert "<" not in tables.markdown(found)

    tex = [text for text in tables.latex(found).splitlines() if text.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", text)) for text in tex} == {width - 1}
    for text in tex:
        body = text.removesuffix(r" \\").replace(" & ", " ")
        bare = re.sub(r"\\(text\w+\{\}|[{}$&#%_])|\$\\pm\$", "", body)
        assert not re.search(r"[\\{}$&#%_^~]", bare), bare

    for cells in list(csv.reader(io.StringIO(tables.comma_separated(found))))[1:]:
        for cell in cells:
            assert not cell.startswith(("=", "+", "@")), cell
            assert not cell.startswith("-") or float(cell) < 0
    screen = io.StringIO()
    terminal.show(found, Console(file=screen, width=250, color_system=None))
    assert name in screen.getvalue()  # not read as markup


def test_csv_has_full_precision_and_the_differences(sources: Callable[..., list[Path]]) -> None:
    (group,) = groups(sources())
    lines = list(csv.DictReader(io.StringIO(tables.comma_separated([group]))))
    assert len(lines) == sum(len(line.cells) for line in group.lines)
    tests = {(test.line, test.column.evaluator, test.against): test for test in group.differences}
    for text in lines:
        cell = next(
            cell
            for line in group.lines
            if line.label == text["line"]
            for column, cell in line.cells.items()
            if column.evaluator == text["evaluator"]
        )
        assert float(text["top1"]) == cell.mean
        for base in tables.BASELINES:
            test = tests.get((text["line"], text["evaluator"], base))
            assert text[f"minus_{base}"] == ("" if test is None else repr(test.points))


def test_a_refusal_shows_no_number(sources: Callable[..., list[Path]]) -> None:
    found = groups(sources(dataset="fashion_mnist"))  # scratch at 70 % on 100 labels
    assert "refused: broken baseline" in tables.markdown(found)
    (refused,) = [test for test in found[0].differences if test.against == "scratch"]
    assert tables.difference(refused)[3:] == ("refused: broken baseline", "", "", "", "")
    assert "minus_scratch" in tables.comma_separated(found).splitlines()[0]
    assert all(line["minus_scratch"] == "" for line in csv.DictReader(io.StringIO(tables.comma_separated(found))))
    assert "REFUSED" in report.page(found, ["compare"])


def test_a_folder_that_cannot_be_written_is_the_user_s_to_mend(
    sources: Callable[..., list[Path]], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        report.write(groups(sources()), ["compare"], tmp_path / "file" / "out")


def test_label_efficiency_is_a_file_of_its_own_for_light_and_dark(
    synthetic_run: Callable[..., Path], tmp_path: Path
) -> None:
    rng, runs = np.random.default_rng(0), []
    for method, level in (("simclr", 0.8), ("random", 0.5)):
        results = [
            {"evaluator": name, "n_labels": n, "draw": draw, "correct": rng.random(360) < level * n**0.02}
            for name in ("fewlabel/v1", "finetune/v1")
            for n in (10, 100, 300)
            for draw in range(2)
        ]
        runs.append(synthetic_run(method, f"{method}</svg><script>" if method == "simclr" else method, results))
    found = groups(runs)
    written = report.write(found, ["compare"], tmp_path / "out")
    assert [path.name for path in written][-2:] == ["label_efficiency.svg", "index.html"]
    drawing = ElementTree.fromstring(written[-2].read_text())
    text = " ".join(drawing.itertext())
    assert all(f"{group.backbone}: " in text for group in found)
    assert "simclr</svg><script>" in text  # as text: the file is well-formed, and no element is called script
    assert not [x for x in drawing.iter() if x.tag.endswith("script")]
    style = next(x for x in drawing.iter() if x.tag.endswith("style")).text or ""
    assert "prefers-color-scheme: dark" in style
    used = set(re.findall(r"var\(--([\w-]+)\)", written[-2].read_text()))
    assert used <= set(re.findall(r"--([\w-]+):", style))
    page = Page(written[-1].read_text())
    assert "fine-tuned, leads scratch at every number of labels measured, 10 to 300" in page.text


def test_published_rows_stand_in_tables_of_their_own(sources: Callable[..., list[Path]], tmp_path: Path) -> None:
    found, beside = groups(sources()), published.load("cifar10")
    written = report.write(found, ["compare"], tmp_path / "out", None, beside)
    markdown = written[0].read_text()
    ours, theirs = markdown.split("## Published on cifar10")
    assert ours.strip() == tables.markdown(found).strip()
    assert "context, not a comparison" in theirs
    for rows in beside.values():
        for row in rows:
            assert tables.escaped(row.source) in theirs
    page = Page(written[-1].read_text())
    self_contained(page)
    assert "What others have published on cifar10" in page.text
    assert written[1].read_text() == tables.comma_separated(found)  # not in the rows that scripts read


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_class_names_are_text_on_the_page(
    sources: Callable[..., list[Path]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.from_numpy(LABELS)
    count = int(labels.max()) + 1
    pixels = torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)
    images = Arrays("digits/test", pixels, labels, [name] + [f"c{k}" for k in range(1, count)], (0.5,), (0.5,))
    data = EvalData("digits", images, images, images, count)
    monkeypatch.setattr(section, "_data", lambda group, missing: data)
    text = report.page(groups(sources()), ["compare"])
    self_contained(Page(text))
    assert str(escape(name)) in text  # in the confusion matrix, as it is
    assert "<" not in name or name not in text
