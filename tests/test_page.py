"""The page of an analysis: it stands alone, its text stays text, and its pictures say what was measured."""

import base64
import html.parser
import json
from pathlib import Path

import numpy as np
import pytest

from hf_semfocus.analysis import Landscape, Record, Target
from hf_semfocus.analysis.page import (
    Course,
    Pair,
    Section,
    Side,
    Study,
    build,
    page,
    panels,
    write_page,
    write_pictures,
)
from hf_semfocus.analysis.page.charts import Bars, Chart, Heat, Line
from hf_semfocus.analysis.page.interactive import figure
from hf_semfocus.analysis.page.sections import PANELS

HOSTILE = "<script>alert(1)</script><!-- $x &lt;"
TOKENS = ["a", "</script>", HOSTILE]


class Page(html.parser.HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.scripts, self.handlers, self.inside = [], [], {}, [], None
        self.rows, self.holder, self.is_cell = {}, None, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.inside = dict(attributes) if tag == "script" else None
        self.holder = dict(attributes).get("id", self.holder)
        if tag == "tr":
            self.rows.setdefault(self.holder, []).append([])
        self.is_cell = tag == "td"
        if self.is_cell:
            self.rows[self.holder][-1].append("")

    def handle_endtag(self, tag):
        self.inside, self.is_cell = None, False

    def handle_data(self, data):
        if self.inside is None:
            self.text.append(data)
            if self.is_cell:
                self.rows[self.holder][-1][-1] += data
        elif "id" in self.inside or "data-target" in self.inside:
            self.scripts[self.inside.get("id", self.inside.get("data-target"))] = json.loads(data)

    def table(self, holder):
        """The cells of the table within an element, without its header."""
        return [row for row in self.rows[holder] if row]

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    @property
    def references(self):
        """Everything that a browser would load or could be led to."""
        names = ("src", "href", "srcset", "action", "data", "poster")
        return [attributes[name] for _, attributes in self.tags for name in names if attributes.get(name)]


def record(kept, separation):
    made, rng = Record(["first", "second"]), np.random.default_rng(0)
    for layer in range(2):
        made.add(layer, 0, "dispersion", 20 + rng.random(50))
        if kept is not None:
            made.add(layer, 0, "kept_dispersion", kept + rng.random(50))
            made.add(layer, 0, "separation", separation + rng.random(50))
            made.add(layer, 0, "in_degree", np.array([0, 1, 2, 3, 9] * 10, dtype=float))
            made.add(layer, 0, "kept_mass", rng.random(50))
    return made


def side(name, attention, kept=None, separation=0.0):
    weights = np.random.default_rng(1).dirichlet(np.ones(3), (2, 3)).astype(np.float32)
    loss = np.arange(9.0).reshape(3, 3) + 1
    held = Landscape(np.linspace(-1, 1, 3), loss, loss / 10, (1.0, 2.0), {"points": 3, "rows": 5})
    return Side(name, attention, record(kept, separation), [[weights, weights]], held)


def pair(name="model", kept=1.0, separation=0.1, k=3):
    dense, sparse = side(f"{name}, dense", "sdpa"), side(f"{name}, sparse", "topk_sparse:k=3", kept, separation)
    return Pair(name, dense, sparse, k, 40, 5, "lines", True, [TOKENS])


def course(name="course"):
    found = [
        {"kind": "epoch", "attention": attention, "seed": seed, "epoch": epoch, "step": epoch * 10}
        | {"seconds": epoch * 0.5, "train_accuracy": min(1.0, epoch * speed), "eval_loss": 1 / epoch}
        for attention, speed in (("sdpa", 0.1), ("topk_sparse:k=3", 0.31))
        for seed in (1, 2)
        for epoch in range(1, 5)
    ]
    return Course(name, found, Target("train_accuracy", 0.9))


@pytest.fixture(scope="module")
def hostile():
    return Page(page(Study([pair(HOSTILE)], [course(HOSTILE)]), HOSTILE, HOSTILE))


def test_every_file_is_a_panel_and_every_panel_is_shown(hostile):
    there = {file.stem for file in Path(panels.__file__).parent.glob("*.py")} - {"__init__"}
    assert there == set(PANELS)
    assert [name for name in hostile.ids if name in PANELS] == sorted(PANELS, key=lambda name: PANELS[name][0])


def test_nothing_is_loaded_from_elsewhere(hostile):
    assert {each for each in hostile.references if not each.startswith("#")} == set()
    assert not {tag for tag, _ in hostile.tags} & {"link", "img", "iframe", "object", "embed", "base"}
    [policy] = [each["content"] for tag, each in hostile.tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_hostile_text_stays_text(hostile):
    said = "".join(hostile.text)
    assert said.count(HOSTILE) >= 5
    assert "alert(1)" not in said.replace(HOSTILE, "")
    assert set(hostile.handlers) == {"onsubmit"}  # of the forms that only hold choices
    assert hostile.scripts["attention_maps-data"]["pairs"][0]["sentences"] == [TOKENS]
    for name, chart in hostile.scripts.items():  # Plotly reads markup in every text
        assert name == "attention_maps-data" or "<script" not in json.dumps(chart), name
    clean = Page(page(Study([pair()], [course()]), "title"))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in clean.tags]


def test_it_can_be_used_without_a_mouse_and_without_seeing_colors(hostile):
    tags = [tag for tag, _ in hostile.tags]
    assert tags.count("select") == tags.count("label") == 5
    charts = [each for name, each in hostile.scripts.items() if name.startswith("chart-")]
    drawn = [trace for chart in charts for trace in chart["data"] if trace.get("name")]
    lines = [(trace["line"]["dash"], trace["marker"]["symbol"]) for trace in drawn if trace["type"] == "scatter"]
    assert len(set(lines)) >= 3
    for chart in charts:
        assert all(chart["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis"))
    labelled = [each for tag, each in hostile.tags if each.get("role") == "img"]
    assert len(labelled) == len(charts)
    assert all(each["aria-label"] for each in labelled)


def test_maps_hold_the_weights():
    study = Study([pair()])
    data = Page(page(study, "title")).scripts["attention_maps-data"]
    packed = np.frombuffer(base64.b64decode(data["sides"][1]["sentences"][0]), "<u2") / data["scale"]
    expected = np.stack(study.pairs[0].sparse.maps[0]).ravel()
    assert np.abs(packed - expected).max() <= 0.51 / data["scale"]
    assert data["sides"][1]["heads"] == [2, 2]
    assert (data["pairs"][0]["dense"], data["pairs"][0]["sparse"]) == (0, 1)


def said(study):
    return " ".join(" ".join(Page(page(study, "title")).text).split())


def test_what_holds_and_what_does_not_is_said():
    assert "(lambda_W < 1) holds at every quantile" in said(Study([pair()]))
    assert "(lambda_W < 1) does not hold here, at no quantile" in said(Study([pair(kept=30.0)]))
    assert "this shows no benefit of top-k here" in said(Study([pair(separation=1e-6)]))


def test_conditions_that_cannot_be_stated_are_said_to_be_so():
    assert "cannot be stated: separation=-" in said(Study([pair(separation=-9.0)]))
    unlimited = said(Study([pair(k=None)]))
    assert "cannot be stated: topk_sparse:k=3 keeps no fixed number of keys" in unlimited
    lacking = pair()
    lacking.sparse.record.sketches = {
        place: sketch for place, sketch in lacking.sparse.record.sketches.items() if place[2] != "separation"
    }
    assert "no query saw more than the 3 keys that it keeps" in said(Study([lacking]))


def test_targets_that_were_not_reached_are_said_to_be_so():
    text = said(Study([], [course()]))
    assert "sdpa after more than 4 epochs (0 of 2 runs)" in text
    assert "topk_sparse:k=3 after 3 epochs (2 of 2 runs)" in text
    charts = Page(page(Study([], [course()]), "title")).scripts
    [bars] = charts["chart-time_0_epoch"]["data"]
    assert (bars["y"], bars["marker"]["pattern"]["shape"]) == ([4.0, 3.0], ["/", ""])


def test_the_histogram_counts_keys():
    [bars] = Page(page(Study([pair()]), "title")).scripts["chart-in_degree"]["data"]
    assert bars["x"] == ["0", "1", "2 to 3", "4 to 7", "8 to 15"]
    assert bars["y"] == pytest.approx([0.2, 0.2, 0.4, 0.0, 0.2], abs=1e-3)


def test_charts_have_their_numbers_as_tables():
    lines = Chart("c", "t", "x", "y", [Line("l", [1.0], [2.0], [1.5], [2.5]), Line("m", [1.0], [3.0])])
    assert lines.table()[1:] == [["l", "1", "2", "1.5", "2.5"], ["m", "1", "3", "", ""]]
    bars = Chart("c", "t", "x", "y", bars=[Bars("b", [1.0, 2.0]), Bars("d", [1.0, 2.0], ["one", "two"])], labels="pq")
    assert bars.table() == [["x", "b", "d"], ["p", "1", "one"], ["q", "2", "two"]]


def test_figures_are_json_whatever_the_numbers():
    heat = Heat(np.array([[np.nan, np.inf]]), ["<b>", "c"], [0.0], "u")
    drawn = figure(Chart("c", "<i>", "x", "y", heat=heat))
    assert json.loads(json.dumps(drawn, allow_nan=False))["data"][0]["z"] == [[None, None]]
    assert drawn["data"][0]["x"] == ["&lt;b&gt;", "c"]
    assert drawn["layout"]["title"]["text"] == "&lt;i&gt;"


def test_pictures_are_written_as_files(tmp_path):
    write_pictures(Study([pair(HOSTILE)]), tmp_path)
    names = {file.stem for file in tmp_path.iterdir()}
    assert {file.name for file in tmp_path.iterdir()} == {
        f"{name}{suffix}" for name in names for suffix in (".png", ".svg")
    }
    assert {"attention_dense", "attention_sparse", "dispersion_0", "in_degree", "landscape_0", "separation"} <= names
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in tmp_path.glob("*.png"))


def test_a_page_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "LARGEST", 1_000_000)
    with pytest.raises(ValueError, match=r"the page has \d\.\d MB; expected at most 1"):
        write_page(Study([]), tmp_path / "page.html", "title")
    assert not list(tmp_path.iterdir())


def test_a_new_panel_is_one_function(monkeypatch):
    monkeypatch.setitem(PANELS, "extra", (5, lambda study: Section("Extra", ["said <here>"])))
    found = Page(page(Study([]), "title"))
    assert "extra" in found.ids
    assert "said <here>" in "".join(found.text)
