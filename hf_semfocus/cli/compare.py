"""Swap the attention of a language model on a text, without training: perplexity, time and a verdict.

    semfocus compare MODEL
    semfocus compare MODEL --text notes.txt --attention topk_sparse:k=32 banded_sparse:window=32

MODEL is a folder or a name on the Hub, of a causal or a masked language model. The table is printed; ``report.md`` and
the curve, ``swap.png``, are in ``--output_dir``, where files of that name are replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..console import check_at_least, check_folder, check_threads, imports, option, parse
from ..data import load_text, load_tokenizer
from ..experiments import title
from ..experiments.on_text import ATTENTIONS, TOKENS, Comparison, compare_attentions, language_kind, names_of
from ..models.checkpoints import checkpoint_config, load_checkpoint
from ..reports import report
from ..training import TrainingOptions, start
from ..training.setup import where


@dataclass
class CompareOptions:
    """Which model, text and attentions."""

    model: str | None = option(None, "folder or name on the Hub; may also be given without its name")
    text: str | None = option(None, "text file in UTF-8; the held-out embedded text by default")
    attention: list[str] = option(list(ATTENTIONS), "attentions to compare with full attention")  # noqa: RUF009
    tokens: int = option(TOKENS, "tokens of the text at most, in whole rows")
    block_size: int | None = option(None, "tokens of a row; 512 by default, or as many as the model has positions")
    cpu_threads: int | None = option(None, "threads of PyTorch on a CPU; its cores by default, four at most")
    imports: list[str] = imports()  # noqa: RUF009
    output_dir: str | None = option(None, "outputs/compare and the model's name by default")

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("block_size", 4)):
            check_at_least(name, getattr(self, name), least)
        check_threads(self.cpu_threads)
        names_of(self.attention)
        check_folder("output_dir", self.output_dir)
        if self.model is None:
            raise ValueError("model=None; expected a folder, or a name on the Hub")


def main(args: Sequence[str] | None = None) -> Comparison:
    """Compare, print and write; returns what was found."""
    [options] = parse(CompareOptions, args=args, about=__doc__, first="model")
    texts = read(options.text)
    config = checkpoint_config(options.model)
    kind, tokenizer = language_kind(config), load_tokenizer(options.model)
    accelerator = start(TrainingOptions(), options.cpu_threads)
    model = load_checkpoint(kind, options.model, names_of(options.attention)[1], config)
    sizes = {"tokens": options.tokens, "block_size": options.block_size}
    found = compare_attentions(model, tokenizer, texts, options.attention, **sizes, accelerator=accelerator)
    if accelerator.is_main_process:
        write(found, options, where(accelerator))
    return found


def read(path: str | None) -> list[str]:
    """The text of a file, or the documents of the embedded one.

    Raises:
        ValueError: there is no such file, it is not UTF-8, or it is empty.
    """
    if path is None:
        return load_text("embedded", "validation")["text"][:]
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"text={path!r} cannot be read: {error}; expected a text file in UTF-8") from error
    if not text.strip():
        raise ValueError(f"text={path!r} is empty; expected a file with text")
    return [text]


def write(found: Comparison, options: CompareOptions, ran_on: str) -> None:
    """Print what was found, and write it with its curve."""
    folder = Path(options.output_dir or f"outputs/{title('compare', options.model)}")
    name = f"{title(options.model)}, its attention swapped without training"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            found.draw(folder / "swap.png", name)
            curve = "![Perplexity against the number of keys](swap.png)"
        except ImportError as error:
            curve = f"no swap.png: {error}"
        report.write_markdown(folder, name, [str(found), curve], asdict(options), f"Ran on {ran_on}.")
    except OSError as error:
        raise ValueError(f"output_dir={str(folder)!r} cannot be written to: {error}") from error
    print(found, *([] if curve.startswith("!") else [curve]), f"written to {folder}", sep="\n")
