"""Attention by the definitions, one query at a time in float64; shares no code with the library.

:func:`kept` gives the positions a query keeps. A query is described by its own position among the ``keys`` positions
it may see (0, 1, ...), and its scores over them.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

# ---- static patterns: (query, keys, params, causal, where) -> positions


def _mix(x):
    x &= 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


def _drawn(query, keys, params, where):
    """What random keys are chosen by in place of scores."""
    layer, head = where
    stream = _mix(_mix(params["seed"] + layer * 0x9E3779B1) + head)
    return [_mix(_mix(stream + query) + j) >> 8 for j in keys]


def _band(query, keys, params, causal):
    window = params["window"]
    if causal:
        return {j for j in range(keys) if query - window < j <= query}
    first = query - (window - 1) // 2
    if params["edge"] == "shifted":
        first = max(0, min(first, keys - window))
    return set(range(first, first + window)) & set(range(keys))


def _with_global(local):
    def kept(query, keys, params, causal, where):
        g = params["num_global_tokens"]
        tokens = list(range(keys))
        special = (
            set(tokens[:g] if params["global_position"] == "first" else tokens[max(0, keys - g) :]) if g else set()
        )
        others = [j for j in tokens if j not in special]
        if query in special:
            return tokens
        near = local(others.index(query), len(others), params, causal)
        return sorted(special | {others[j] for j in near})

    return kept


def _block(query, keys, params, causal):
    size = params["block_size"]
    start = query - query % size
    return {j for j in range(start, start + size) if j < keys and (j <= query or not causal)}


def _strided(query, keys, params, causal):
    far = {j for j in range(keys) if abs(query - j) % params["stride"] == 0 and (j <= query or not causal)}
    return far | _band(query, keys, params, causal)


def _sink(query, keys, params, causal, where):
    return set(range(min(keys, params["first"])))


PATTERNS = {
    "sink_sparse": _sink,
    "banded_sparse": _with_global(_band),
    "block_local_sparse": _with_global(_block),
    "strided_sparse": _with_global(_strided),
}

# ---- selections: (scores, params) -> positions, and how far the scores are from another choice; below 0: in doubt
# even where the scores have no error


def _gap(values, chosen):
    left = [value for j, value in enumerate(values) if j not in chosen]
    return min((abs(values[j] - value) for j in chosen for value in left), default=math.inf)


def _best(scores, k):
    # best first, the later of equals first
    chosen = sorted(range(len(scores)), key=lambda j: (scores[j], j), reverse=True)[:k]
    return chosen, _gap(scores, set(chosen))


def _topk(scores, params):
    return _best(scores, params["k"])


def _share_or_topk(scores, params):
    return (
        _best(scores, math.ceil(Fraction(str(params["share"])) * len(scores)))
        if params["share"]
        else _topk(scores, params)
    )


def _bottomk(scores, params):
    return _best([-score for score in scores], params["k"])


def _threshold(scores, params):
    bound = max(scores) - params["margin"]
    return [j for j, score in enumerate(scores) if score >= bound], min(abs(score - bound) for score in scores)


def _topp(scores, params):
    if params["p"] == 1:
        return list(range(len(scores))), math.inf
    top = max(scores)
    total = sum(math.exp(score - top) for score in scores)
    order, _ = _best(scores, len(scores))
    mass, close, count = 0.0, math.inf, 0
    while mass < params["p"]:
        mass += math.exp(scores[order[count]] - top) / total
        close = min(close, abs(mass - params["p"]))
        count += 1
    chosen = order[:count]
    return chosen, -1 if close < 4e-6 else min(close / 2, _gap(scores, set(chosen)))


SELECTIONS = {
    "topk_sparse": _share_or_topk,
    "bottomk_sparse": _bottomk,
    "threshold_sparse": _threshold,
    "topp_sparse": _topp,
}
ALPHA = {"sparsemax_sparse": 2.0}
WEIGHTS = ("entmax_sparse", *ALPHA)


def _blocks(query, keys, scores, params):
    """Positions of the own block and of the best others, and the gap between the means of these and of the rest."""
    size, own = params["block_size"], query // params["block_size"]
    blocks = {}
    for j in range(keys):
        blocks.setdefault(j // size, []).append(j)
    others = sorted(set(blocks) - {own})
    means = [sum(scores[j] for j in blocks[b]) / len(blocks[b]) for b in others]
    chosen, gap = _best(means, params["k"] - (own in blocks))
    if (
        gap < 1e-9
        and len({scores[j] for b in others for j in blocks[b]}) > 1
        and any(score % 0.25 for score in scores)
    ):
        gap = -1  # sums that rounding makes differ
    return blocks.get(own, []) + [j for c in chosen for j in blocks[others[c]]], gap


NAMES = sorted(PATTERNS.keys() | SELECTIONS.keys() | {"random_sparse", "block_topk_sparse", *WEIGHTS})


def alpha_of(name, params):
    """That of the entmax that weighs the kept keys; 1 for softmax."""
    return ALPHA.get(name, params["alpha"]) if name in WEIGHTS else 1


def positional(name):
    """Whether a mechanism counts positions."""
    return any(part not in (*SELECTIONS, *WEIGHTS) for part in name.split("+"))


def kept(name, query, keys, scores, params, causal, where):
    """The positions that a query keeps, and the gap of the selection."""
    if name == "block_topk_sparse":
        return _blocks(query, keys, scores, params)
    parts = name.split("+")
    always = {j for part in parts if part in PATTERNS for j in PATTERNS[part](query, keys, params, causal, where)}
    rest, gap, chosen = [j for j in range(keys) if j not in always], math.inf, []
    for part in parts:
        if part in SELECTIONS and rest:
            chosen, gap = SELECTIONS[part]([scores[j] for j in rest], params)
        elif part == "random_sparse":
            chosen, gap = _best(_drawn(query, rest, params, where), params["k"])[0], math.inf
    return sorted(always | {rest[j] for j in chosen}), gap


def entmax(scores, alpha):
    """The weights by bisection, and the distance of the nearest score from where weights become zero."""
    raised = (alpha - 1) * scores
    low, high = raised.max() - 1, raised.max()
    for _ in range(200):
        middle = (low + high) / 2
        total = (np.maximum(raised - middle, 0) ** (1 / (alpha - 1))).sum()
        low, high = (middle, high) if total > 1 else (low, middle)
    weights = np.maximum(raised - low, 0) ** (1 / (alpha - 1))
    return weights / weights.sum(), abs(raised - low).min()


@dataclass
class Truth:
    """A result in float64, how far rounding may take another from it, and the sizes of the terms it is a sum of."""

    value: np.ndarray
    noise: np.ndarray
    size: np.ndarray

    @classmethod
    def zeros(cls, shape):
        return cls(*(np.zeros(shape) for _ in range(3)))

    def add(self, where, value, size, factor):
        self.value[where] += value
        self.size[where] += size
        self.noise[where] += size * factor


def attention(
    query, key, value, name, params, *, allowed, causal, scale, bias=None, softcap=None, sinks=None, layer=0,
    grad=None, unit=0.0, exact=False,
):  # fmt: skip
    """Attention and its gradients, a query at a time.

    Args:
        query: ``[batch, heads, queries, dim]``; ``key`` and ``value`` may have fewer heads; all float64.
        allowed: bool ``[batch, heads, queries, keys]``: who may be seen, causality included.
        bias: ``[batch, heads, queries, keys]``, added to the scores.
        grad: gradient with respect to the output, for those of all inputs.
        unit: rounding unit of the computation to be judged, for :class:`Truth`'s noise.
        exact: whether that computation makes no error in the scores, so that the order of keys is beyond doubt.

    Returns:
        ``(results, doubtful)``: :class:`Truth` for ``output``, ``weights`` and the gradients ``query``, ``key``,
        ``value``, ``bias`` and ``sinks``, and the queries (bool) of which rounding decides what they keep, or which
        are not among the keys they see while ``name`` counts positions. Gradients leave the doubtful out.
    """
    batch, heads, queries, dim = query.shape
    kv_heads, keys, width = value.shape[1:]
    doubtful = np.zeros((batch, heads, queries), dtype=bool)
    shapes = {"output": (batch, heads, queries, width), "weights": allowed.shape, "query": query.shape}
    shapes |= {"key": key.shape, "value": value.shape, "bias": allowed.shape, "sinks": (heads,)}
    found = {what: Truth.zeros(shape) for what, shape in shapes.items()}
    for b, h, i in np.ndindex(batch, heads, queries):
        g = h // (heads // kv_heads)
        (columns,) = np.nonzero(allowed[b, h, i])
        own = i + keys - queries
        if not columns.size:
            continue
        if positional(name) and own not in columns:
            doubtful[b, h, i] = True
            continue
        raw = scale * (key[b, g, columns] @ query[b, h, i])
        scores = raw if softcap is None else softcap * np.tanh(raw / softcap)
        scores = scores if bias is None else scores + bias[b, h, i, columns]
        spread = abs(scale) * (abs(key[b, g, columns]) @ abs(query[b, h, i])) * (dim + 6) + 8 * abs(scores)
        place = int((columns < own).sum())
        sink = -np.inf if sinks is None else sinks[h]
        alpha = alpha_of(name, params)
        if alpha > 1:
            every = scores if sinks is None else np.append(scores, sink)
            weights, gap = entmax(every, alpha)
            gap = -1 if alpha > 1.5 and gap < (1e-3 if unit else 1e-9) else np.inf
            chosen, share = list(np.nonzero(weights[: columns.size])[0]), sum(weights[columns.size :])
            weights = weights[chosen]
        else:
            chosen, gap = kept(name, place, columns.size, scores.tolist(), params, causal, (layer, h))
        if gap < 0 or (not exact and gap <= 2 * unit * spread.max()):
            doubtful[b, h, i] = True
            continue
        columns, scores = columns[chosen], scores[chosen]
        if alpha == 1:
            top = max(scores.max(), sink)
            total = np.exp(scores - top).sum() + np.exp(sink - top)
            weights, share = np.exp(scores - top) / total, np.exp(sink - top) / total
        # of the Jacobian diag(slopes) - slopes slopes' / total: of softmax the weights themselves
        slopes, of_sink = weights ** (2 - alpha), share ** (2 - alpha) if share else 0.0
        total, errors = slopes.sum() + of_sink, slopes
        if alpha > 1:  # whose errors are not relative to the weights
            errors = slopes + np.maximum(1, weights ** (3 - 2 * alpha))
        k, v, q = key[b, g, columns], value[b, g, columns], query[b, h, i]
        score_error = 2 * spread[chosen].max(initial=0.0) if len(chosen) > 1 or sinks is not None else 0.0
        factor = unit * (2 * score_error + 2 * width + 4 * len(chosen) + 4 * queries * (heads // kv_heads) + 64)
        found["weights"].add((b, h, i, columns), weights, errors, factor)
        found["output"].add((b, h, i), weights @ v, errors @ abs(v), factor)
        if grad is None:
            continue
        d_out = grad[b, h, i]
        d_weights, size = v @ d_out, abs(v) @ abs(d_out)
        mean, mean_size = slopes @ d_weights / total, errors @ size / total
        d_scores, d_size = slopes * (d_weights - mean), errors * (size + mean_size)
        slope = scale * (1.0 if softcap is None else 1 - np.tanh(raw[chosen] / softcap) ** 2)
        d_raw, d_raw_size = d_scores * slope, d_size * abs(scale)
        found["value"].add((b, g, columns), np.outer(weights, d_out), np.outer(errors, abs(d_out)), factor)
        found["query"].add((b, h, i), d_raw @ k, d_raw_size @ abs(k), factor)
        found["key"].add((b, g, columns), np.outer(d_raw, q), np.outer(d_raw_size, abs(q)), factor)
        found["bias"].add((b, h, i, columns), d_scores, d_size, factor)
        found["sinks"].add(h, -of_sink * mean, of_sink * mean_size, factor)
        found["sinks"].noise[h] += unit * (len(chosen) + 4) * mean_size  # where the share is what the others leave
    return found, doubtful
