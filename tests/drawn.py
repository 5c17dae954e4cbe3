"""``given``, ``settings`` and ``st`` of hypothesis; where it is not installed, the tests that need them are skipped.

The tests of the GPU kernels run on machines that have pytest and little else.
"""

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ImportError:
    from unittest.mock import MagicMock

    import pytest

    st = MagicMock()

    def given(*strategies, **named):
        """A test of that name that is skipped."""

        def skipped(test):
            @pytest.mark.skip(reason="hypothesis is not installed")
            def stand_in():
                raise AssertionError(test)

            return stand_in

        return skipped

    def settings(**options):
        """No settings."""
        return lambda test: test


__all__ = ["given", "settings", "st"]
