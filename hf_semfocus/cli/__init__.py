"""The commands: a module for each, with a function ``main``; ``command`` starts them.

A training is options, one experiment, and the comparison of attentions on it.
"""
