"""Reports: content, valid HTML, and no external resources."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import tiny_config

from jdance.data import records
from jdance.errors import UserError
from jdance.report import blocks, charts, html
from jdance.report import run as run_report
from jdance.train import evaluation, loop, results

VOID = {"meta", "img", "br", "line", "rect", "circle", "polyline"}


class Page(HTMLParser):
    """Checks that tags are closed; collects text, links and descriptions of images."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.links, self.images = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [values[name] for name in ("src", "href", "action") if name in values]
        if tag == "img":
            self.images.append(values["alt"])
        if tag == "svg":
            assert values["role"] == "img"
            self.images.append(values["aria-label"])
        assert tag != "script"

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def check_page(text):
    """Parses a page; checks that it is self-contained and that all images are described."""
    page = Page(text)
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert "url(" not in text and "@import" not in text
    assert re.findall(r'https?://[^"]*', text) == ["http://www.w3.org/2000/svg"] * text.count(
        "<svg"
    )
    assert all(len(alt) > 20 for alt in page.images)
    assert '<meta name="viewport" content="width=device-width' in text
    return page


def test_percentages_with_intervals():
    assert blocks.percent_interval(None, None) == ""
    assert blocks.percent_interval(0.5, (0.2366, 0.7634)) == "50.0 (23.7 to 76.3)"
    assert blocks.percent_interval(0.5, None) == "50.0"  # results of earlier versions


def test_html_and_markdown():
    sections = [
        html.Section(
            "A < B",
            [
                html.Text("1 < 2 & 3"),
                html.Table("c|d", ["x", "y"], [["a|b", "<1>"]]),
                html.Figure("curve", 'a "long" description of it', "<svg></svg>"),
            ],
        )
    ]
    page = check_page(
        html.to_html("T", sections).replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"')
    )
    assert "<1>" in page.text and page.images == ['a "long" description of it']
    lines = html.to_markdown("T", sections).splitlines()
    assert lines[:3] == ["# T", "", "## A < B"]
    assert "| a\\|b | <1> |" in lines and 'curve: a "long" description of it' in lines


def test_curves_pass_through_their_points():
    svg = charts.curves({"one & all": [(0, 0.0), (5, 0.5), (10, 1.0)]}, "epoch", "accuracy")
    points = re.search(r'points="([^"]*)"', svg)[1].split()
    x, y = np.array([point.split(",") for point in points], float).T
    np.testing.assert_allclose(np.diff(x), (430 - 40 - 16) / 2, atol=0.1)
    np.testing.assert_allclose(np.diff(y), -120, atol=0.1)
    assert "one &amp; all" in svg
    assert charts.curves({}, "epoch", "accuracy").endswith("</svg>")
    assert "<circle" in charts.curves({"a": [(3.0, 0.9)]}, "epoch", "accuracy")


def test_confusion_matrix_shows_all_counts():
    counts = np.array([[30, 2], [0, 7]])
    svg = charts.confusion(counts, ["wave", "walk <x>"])
    assert re.findall(r">(\d+)<", svg) == ["30", "2", "7"] and "walk &lt;x&gt;" in svg
    figure, table = blocks.confusion_blocks(counts, ["wave", "walk"], "val")
    assert "37 of 39 correct; wave taken for walk 2 times" in figure.alt
    assert table.rows == [["wave", "30", "2", "93.8"], ["walk", "0", "7", "100.0"]]


def test_mistakes_are_sorted_by_probability():
    predictions = {
        "probabilities": np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]]),
        "label": np.array([0, 0, 0, 1]),
        "index": np.array([5, 6, 7, 8]),
    }
    assert evaluation.mistakes(predictions, ["a", "b"]) == [
        {"index": 7, "true": "a", "guess": "b", "probability": 0.8},
        {"index": 6, "true": "a", "guess": "b", "probability": 0.6},
    ]
    assert len(evaluation.mistakes(predictions, ["a", "b"], limit=1)) == 1


def test_report_of_a_run(tiny_data, tmp_path):
    with pytest.raises(UserError, match="train with"):
        run_report.write(tmp_path)
    config = tiny_config(tiny_data)
    config.model.branches = "keypoints"
    loop.train(config, tmp_path)
    run_report.write(tmp_path)  # before any evaluation
    result, _ = results.evaluate([tmp_path], "val")
    text = run_report.write(tmp_path).read_text()
    page = check_page(text)
    text = " ".join(page.text)
    assert f"{result['accuracy'] * 100:.1f} (" in text and "keypoint_widths" in text
    assert len(result["mistakes"]) == 15 - round(15 * result["accuracy"]) > 0
    shown = min(12, len(result["mistakes"]))
    assert len(page.images) == shown + 2  # curves and confusion
    first = result["mistakes"][0]
    example = records.unpack(records.Dataset(tiny_data).source("val")[first["index"]])
    assert result["classes"][example.label] == first["true"]
    assert f"{first['true']}, taken for {first['guess']}" in text


def test_report_names_the_classes_of_each_result(tmp_path):
    """A folder may hold the results of several runs."""
    (tmp_path / "run").mkdir()
    content = {"config": tiny_config("x").to_dict(), "classes": ["a", "b", "c"]}
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    (tmp_path / "run" / "metrics.jsonl").touch()
    per_class = {name: {"n": 1, "accuracy": 1.0} for name in ("wave", "walk")}
    result = {
        "data": "d", "split": "val", "accuracy": 1.0, "n": 2, "mean_class_accuracy": 1.0,
        "workdir": "runs/other", "per_class": per_class, "confusion": [[1, 0], [0, 1]],
    }  # fmt: skip
    (tmp_path / "eval_val.json").write_text(json.dumps(result))
    text = run_report.write(tmp_path / "run", tmp_path).read_text()
    assert "run other" in text
    names = "".join(f'<th scope="col">{name}</th>' for name in ("wave", "walk", "accuracy"))
    assert names in text  # of the confusion matrix


def test_clock_carries_rounded_seconds():
    times = (0.0, 59.94, 59.97, 119.96, 3600.0)
    assert [charts.clock(time) for time in times] == [
        "0:00.0",
        "0:59.9",
        "1:00.0",
        "2:00.0",
        "60:00.0",
    ]
