"""The label of a row of every task by another route than the one that drew it, and refusals of what no task draws."""

import operator

from hf_semfocus.data.tasks.cycle_navigation import _CYCLE
from hf_semfocus.data.tasks.expressions import DIGITS, MODULUS
from hf_semfocus.data.tasks.listops import _CLOSE, _MAX, _MED, _MIN, _SM
from hf_semfocus.data.tasks.missing_duplicates import _HIDDEN
from hf_semfocus.data.tasks.mqar import _BLANK, _IGNORED, _KEYS
from hf_semfocus.data.tasks.stack_manipulation import _EMPTY, _POP, _PUSH_0

_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def solve(task, tokens):
    """Label, or labels, of a row without padding; ValueError for tokens that ``generate`` could not have drawn."""
    tokens = [int(token) for token in tokens]
    for position, token in enumerate(tokens):
        if not 0 <= token < task.pad_token_id:
            raise malformed(task, f"token {token} at position {position}")
    if not task.min_length <= len(tokens) <= task.max_length:
        raise malformed(task, f"{len(tokens)} tokens, expected {task.min_length} to {task.max_length}")
    return globals()[task.name](task, tokens)


def malformed(task, reason):
    return ValueError(f"not a row of {task.name}: {reason}")


def parity(task, tokens):
    odd = False
    for bit in tokens:
        odd = not odd if bit else odd
    return int(odd)


def even_pairs(task, tokens):
    # Every unequal pair flips the bit, so an odd number of them ends on the other bit.
    return int(tokens[0] != tokens[-1])


def cycle_navigation(task, tokens):
    # places[0] is where the walker stands: turn the cycle under it.
    places = list(range(_CYCLE))
    for token in tokens:
        if token == 0:
            places = [places[-1], *places[:-1]]
        elif token == 2:
            places = [*places[1:], places[0]]
    return places[0]


def missing_duplicates(task, tokens):
    half = task.max_length // 2
    unequal = [pair for pair in zip(tokens[:half], tokens[half:], strict=True) if pair[0] != pair[1]]
    if len(unequal) != 1 or tokens.count(_HIDDEN) != 1:
        raise malformed(task, f"expected equal halves but for one '?', got {task.decode(tokens)!r}")
    return min(unequal[0])


def stack_manipulation(task, tokens):
    actions = next((i for i, token in enumerate(tokens) if token >= _POP), None)
    if not actions or any(token < _POP for token in tokens[actions:]):
        raise malformed(task, f"expected bits, then actions, at least one of each, got {task.decode(tokens)!r}")
    # From the end: a pop takes the nearest earlier bit that no later pop has taken; the first bit left
    # over is the top. Pops of an empty stack find nothing, from either end.
    pops = 0
    for token in reversed(tokens):
        if token == _POP:
            pops += 1
        elif pops:
            pops -= 1
        else:
            return token % _PUSH_0
    return _EMPTY


def modular_arithmetic_brackets(task, tokens):
    try:
        return evaluate(task.decode(tokens), "+-*")
    except ValueError as error:
        raise malformed(task, str(error)) from None


def solve_equation(task, tokens):
    text = task.decode(tokens)
    expression, equals, value = text[:-2], text[-2], text[-1]
    if equals != "=" or value not in DIGITS or expression.count("x") != 1:
        raise malformed(task, f"expected an expression with one x, then = and a digit, got {text!r}")
    try:
        tried = [evaluate(expression.replace("x", digit), "+-") for digit in DIGITS]
    except ValueError as error:
        raise malformed(task, str(error)) from None
    return tried.index(int(value))


def listops(task, tokens):
    operators = []
    pending = [[]]
    for at, token in enumerate(tokens):
        if token < _MIN:
            pending[-1].append(token)
        elif token < _CLOSE:
            operators.append(token)
            pending.append([])
            if len(operators) >= task.max_depth:
                raise malformed(task, f"operator at position {at} is deeper than max_depth={task.max_depth}")
        else:
            arguments = sorted(pending.pop())
            if not operators:
                raise malformed(task, f"']' at position {at} closes no operator")
            if not 2 <= len(arguments) <= task.max_args:
                raise malformed(task, f"{len(arguments)} arguments at position {at}, expected 2..{task.max_args}")
            pending[-1].append(_apply(operators.pop(), arguments))
    if operators or len(pending[0]) != 1:
        raise malformed(task, f"{len(operators)} operators left open, {len(pending[0])} trees complete")
    return pending[0][0]


def mqar(task, tokens):
    # Left to right with two dictionaries, as one would read it.
    known, asked = {}, {}
    for first in range(0, len(tokens), 2):
        key, value = tokens[first : first + 2]
        if first < 2 * task.num_pairs:
            expected, right = "a new pair", key < _KEYS <= value < _BLANK and key not in known
            right = right and value not in known.values()
            known[key] = value
        else:
            expected, right = "a query and a blank", value == _BLANK and key in {_BLANK, *known} - {*asked}
            if key != _BLANK:
                asked[key] = first
        if not right:
            raise malformed(task, f"expected {expected} at {first}, got {task.decode([key, value])!r}")
    if len(asked) < len(known):
        raise malformed(task, f"{len(asked)} queries, expected one for each of {len(known)} keys")
    labels = [_IGNORED] * len(tokens)
    for key, position in asked.items():
        labels[position + 1] = known[key]
    return labels


def planted(task, tokens):
    query, *pairs = map(task.decode, ([token] for token in tokens))
    if not query.startswith("?") or any(pair.startswith("?") for pair in pairs):
        raise malformed(task, f"expected a query and then pairs, got {task.decode(tokens)!r}")
    found = [pair[-1] for pair in pairs if pair[0] == query[1]]
    if len(found) != task.relevant:
        raise malformed(task, f"{len(found)} pairs have the key of the query, expected {task.relevant}")
    return found.count("1")


def in_context_regression(task, tokens):
    # Examples in exact integers: twice a level's value is odd, and inputs agree or differ in each of three places.
    *examples, query = (task.decode([token]).split(":") for token in tokens)
    if query[1] != "?" or any(level == "?" for _, level in examples):
        raise malformed(task, f"expected examples and then an input, got {task.decode(tokens)!r}")
    same = [sum(a == b for a, b in zip(x, query[0], strict=True)) for x, _ in examples]
    return int(sum((2 * int(level) - 3) * (2 * s - 3) for s, (_, level) in zip(same, examples, strict=True)) > 0)


def _apply(operator, ordered):
    if operator == _SM:
        return int(str(sum(ordered))[-1])
    middle = len(ordered) // 2
    return {_MIN: ordered[0], _MAX: ordered[-1], _MED: (ordered[middle] + ordered[~middle]) // 2}[operator]


def evaluate(text, operators):
    """Value mod 5 of an expression, by recursive descent over integers.

    Raises: ValueError naming the position if `text` is not an expression of the grammar.
    """
    value, end = _expression(text, 0, operators)
    _expect(text, end, "the end", end == len(text))
    return value % MODULUS


def _expression(text, start, operators):
    """Value of the expression that begins at `start`, and the position after it."""
    if text[start : start + 1] != "(":
        return _signed_digit(text, start)
    left, end = _expression(text, start + 1, operators)
    if text[end : end + 1] == ")":
        _expect(text, end, f"one of {list(operators)}", text[start + 1] != "(")
        return left, end + 1
    op = text[end : end + 1]
    _expect(text, end, f"')' or one of {list(operators)}", op != "" and op in operators)
    right, end = _expression(text, end + 1, operators)
    _expect(text, end, "')'", text[end : end + 1] == ")")
    return _OPERATIONS[op](left, right), end + 1


def _signed_digit(text, start):
    at = start + text[start:].startswith("-")
    digit = text[at : at + 1]
    _expect(text, at, "a digit", digit != "" and digit in DIGITS)
    return (int(digit) if at == start else -int(digit)), at + 1


def _expect(text, at, what, found):
    if not found:
        raise ValueError(f"expected {what} at position {at} of {text!r}")
