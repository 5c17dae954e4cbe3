"""Sentences of movie reviews as train.csv and validation.csv, with the labels negative and positive.

    pip download --no-deps --no-binary vaderSentiment -d DIR vaderSentiment==3.3.2
    python recipes/prepare/movie_sentiment.py DIR/vaderSentiment-3.3.2.tar.gz OUTPUT_FOLDER

The source distribution holds 10605 sentences from rottentomatoes.com, after Pang & Lee (2004), each with the mean
rating of about 20 people from -4 to 4 (Hutto & Gilbert, ICWSM 2014). Sentences rated between -1 and 1 are left out.

License: the package is MIT, which covers the ratings; the sentences belong to the reviews' authors. Do not
redistribute them or the files written here; publish results and models.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from _files import read_archive, read_members
from _split import run

INNER = r"vaderSentiment-[^/]+/additional_resources/hutto_ICWSM_2014\.tar\.gz"
RATINGS = r"hutto_ICWSM_2014/movieReviewSnippets_GroundTruth\.txt"
CLEAR = 1.0  # sentences whose mean rating is nearer to zero have no clear label


def read_sentences(sdist: Path) -> Iterator[tuple[str, str]]:
    """Sentence and label, from the file inside the archive inside the source distribution."""
    for name, inner in read_archive(sdist, INNER):
        for title, content in read_members(io.BytesIO(inner), f"{sdist}: {name}", RATINGS):
            try:
                lines = content.decode("utf-8").split("\n")  # not splitlines: it also splits at rare characters
                for line in filter(str.strip, lines):
                    _, rating, sentence = line.split("\t")
                    if abs(float(rating)) >= CLEAR:
                        yield sentence.strip(), "positive" if float(rating) > 0 else "negative"
            except ValueError as error:
                sys.exit(f"{sdist}: {title}: expected UTF-8 lines of identifier TAB rating TAB sentence ({error})")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    run(__doc__, "vaderSentiment-3.3.2.tar.gz", read_sentences, arguments)


if __name__ == "__main__":
    main()
