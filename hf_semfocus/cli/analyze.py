"""Measure whether the paper's explanation holds of models, dense beside sparse, and write one page about it.

    semfocus analyze CHECKPOINT --text sentences.txt
    semfocus analyze CHECKPOINT --attention topk_sparse:k=16 --landscape 11
    semfocus analyze outputs/even_pairs-paper

A checkpoint is set beside itself: a dense one with --attention, a sparse one with PyTorch's full attention. Of the
output folder of a comparison, every sparse run is set beside the dense one of its seed. What comes out is in
``--output_dir``: ``page.html``, which needs no other file and no network, ``pictures/`` (PNG, SVG), ``records/``
(Parquet) and ``conditions.json``; the conditions are printed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ..analysis import attention_maps, save_maps
from ..analysis.page import Course, Study, write_page, write_pictures
from ..analysis.page.panels.conditions import table
from ..analysis.page.panels.summary import of_course, of_pair
from ..console import check_at_least, check_parent, imports, option, parse, watched
from ..experiments.analyzed import Comparison, Inputs, Measurement, Planned, find
from ..experiments.analyzed.measure import slug
from ..files import write_json
from ..hf.settings import is_ours, resolve
from ..mechanisms import names
from ..messages import did_you_mean
from ..tables import markdown_table

NEEDED = ("plotly", "matplotlib", "scipy", "datasketches")
"""Packages of the extra."""
SUBTITLE = "Dense and sparse attention side by side: quantities, conditions and bounds of arXiv 2506.14095."


@dataclass
class AnalyzeOptions:
    """What is measured, on what."""

    models: list[str] = option([], "checkpoints, or output folders of comparisons; may also be given without the name")  # noqa: RUF009
    attention: str = option("topk_sparse:k=8", "what a dense checkpoint is compared with")
    text: str | None = option(None, "file of which every line is a row; the text of this package by default")
    rows: int = option(32, "rows at most, of the text or of the runs' task")
    length: int = option(128, "tokens of a line at most")
    sentences: int = option(3, "rows whose attention maps are shown")
    checkpoint: Literal["best", "last"] = option("best", "which model of a run")
    landscape: int | None = option(None, "also draw the loss on a grid of so many places a side; takes its square")
    output_dir: str = option("analysis", "where to; files are replaced")
    export_attentions: str | None = option(
        None, "also write the first row's attention maps, as bertviz takes them (.npz)"
    )
    imports: list[str] = imports()  # noqa: RUF009

    def __post_init__(self) -> None:
        for name, least in {"rows": 1, "length": 2, "sentences": 1, "landscape": 2}.items():
            check_at_least(name, getattr(self, name), least)
        if not is_ours(self.attention):
            near = did_you_mean(self.attention, names())
            raise ValueError(f"attention={self.attention!r}{near}; expected one of {', '.join(names())}")
        resolve(self.attention, None)
        if not self.models:
            raise ValueError("models=[]; expected a checkpoint, or the output folder of a comparison")
        if len({*self.models}) < len(self.models):
            raise ValueError(f"models={self.models!r} names one twice; expected each once")
        if self.export_attentions is not None and not self.export_attentions.endswith(".npz"):
            raise ValueError(f"export_attentions={self.export_attentions!r}; expected a name that ends in .npz")
        check_parent("export_attentions", self.export_attentions)


def main(args: Sequence[str] | None = None) -> Study:
    """Measure, write and print; returns what was measured."""
    args = list(sys.argv[1:] if args is None else args)
    if args and not args[0].startswith("-"):
        args = ["--models", *args]
    [options] = parse(AnalyzeOptions, args=args, about=__doc__)
    if lacking := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(f"analyze needs {', '.join(lacking)}; pip install 'hf_semfocus[analysis]'")
    planned, comparisons = _find(options)
    inputs = [Inputs.of(each, options.text, options.rows, options.length) for each in planned]
    if options.landscape is not None:
        _check_loss(options.landscape, planned, inputs)
    folder = Path(options.output_dir)
    try:
        (folder / "records").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"output_dir={options.output_dir!r} cannot be written to: {error}") from error
    study = _measure(options, planned, inputs, comparisons, folder)
    _write(study, folder, options)
    print(report(study), f"written to {folder / 'page.html'}", sep="\n\n")
    return study


def report(study: Study) -> str:
    """The table of conditions, and what was found in words."""
    stated = [pair for pair in study.pairs if pair.conditions]
    tables = [table(stated)] if stated else []
    words = [*map(of_pair, study.pairs), *filter(None, map(of_course, study.courses))]
    return "\n\n".join([*map(markdown_table, tables), *words])


def _find(options: AnalyzeOptions) -> tuple[list[Planned], list[Comparison]]:
    called = [Path(model).resolve().name for model in options.models]
    called = called if len({*called}) == len(called) else options.models  # records of one name would be one file
    given = zip(options.models, called, strict=True)
    found = [find(model, name, options.attention, options.checkpoint) for model, name in given]
    return [each for planned, _ in found for each in planned], [each for _, each in found if each is not None]


def _check_loss(points: int, planned: Sequence[Planned], inputs: Sequence[Inputs]) -> None:
    for each, rows in zip(planned, inputs, strict=True):
        if rows.objective is None:
            raise ValueError(
                f"landscape={points}, but {each.name} has no loss on a text without labels; expected a causal "
                "language model, or a comparison on a synthetic task"
            )


def _measure(
    options: AnalyzeOptions,
    planned: Sequence[Planned],
    inputs: Sequence[Inputs],
    comparisons: Sequence[Comparison],
    folder: Path,
) -> Study:
    models = {model for each in planned for model in (each.dense, each.sparse)}
    measurement = Measurement(len(models), options.sentences, options.landscape, folder)
    if options.export_attentions is not None:
        maps = attention_maps(planned[0].dense.load(), **inputs[0].batches[0])
        save_maps(options.export_attentions, inputs[0].tokens[0], maps)
    order = watched([each.name for each in planned], "measuring", file=sys.stderr)
    pairs = [measurement.pair(*pair) for _, *pair in zip(order, planned, inputs, strict=True)]
    return Study(pairs, [Course(each.name, each.records, each.target) for each in comparisons])


def _write(study: Study, folder: Path, options: AnalyzeOptions) -> None:
    for side in study.sides:
        side.record.save(folder / "records" / f"{slug(side.name)}.parquet")
    found = [{"pair": pair.name, **asdict(each)} for pair in study.pairs for each in pair.judged[0]]
    write_json(folder / "conditions.json", found)
    write_pictures(study, folder / "pictures")
    models = ", ".join(Path(model).name for model in options.models)
    write_page(study, folder / "page.html", f"Attention of {models}", SUBTITLE)
