"""``python -m hf_semfocus.cli`` is ``semfocus``."""

from .command import main

main()
