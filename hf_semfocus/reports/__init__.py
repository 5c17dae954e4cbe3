"""Reports of runs: tables, curves and a conclusion."""
