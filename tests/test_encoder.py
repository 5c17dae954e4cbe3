"""The paper's encoder against plain formulas in fp64, and against what Transformers expects of a model."""

import math

import pytest
import torch
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
)

import hf_semfocus  # noqa: F401
from hf_semfocus.models import SemFocusEncoderConfig, SemFocusEncoderForSequenceClassification, SemFocusEncoderModel
from hf_semfocus.models.semfocus_encoder.blocks import sinusoidal_positions
from hf_semfocus.models.semfocus_encoder.dropout import Dropout

VOCAB, LABELS = 11, 3
LOCAL = "banded_sparse:window=3,num_global_tokens=2,global_position=last"


def build(attention="sdpa", **changes):
    sizes = {"hidden_size": 6, "intermediate_size": 10, "num_hidden_layers": 3, "max_position_embeddings": 32}
    config = SemFocusEncoderConfig(
        **{"vocab_size": VOCAB, "num_labels": LABELS, "pad_token_id": 10, "dropout": 0.0, **sizes, **changes}
    )
    return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).eval()


def tokens(batch=4, length=7):
    return torch.randint(0, VOCAB - 1, (batch, length))


# ---- an oracle: lists and sums, one position at a time


def oracle(model, ids):
    """Logits of one unpadded sequence, from the formulas of the paper and the model's weights."""
    c, w = model.config, {name: value.double() for name, value in model.state_dict().items()}
    d, heads = c.hidden_size, c.num_attention_heads
    act = {
        "relu": lambda x: x.clamp(min=0),
        "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
        "mish": lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    }[c.hidden_act]

    def linear(name, x):
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    def norm(x, eps):
        centered = x - x.sum() / d
        return centered / torch.sqrt((centered**2).sum() / d + eps)

    def position(p):
        angles = [p / 10000 ** (2 * (i // 2) / d) for i in range(d)]
        return torch.tensor([math.cos(a) if i % 2 else math.sin(a) for i, a in enumerate(angles)]).double()

    x = [w["encoder.embed_tokens.weight"][t] * math.sqrt(d) + position(p) for p, t in enumerate(ids.tolist())]
    for layer in range(c.num_hidden_layers):
        at = f"encoder.layers.{layer}."
        h = [norm(v, 0.0 if layer == 0 else 1e-5) for v in x]
        q, k, v = ([linear(f"{at}attention.{name}_proj", u) for u in h] for name in "qkv")
        mixed = []
        for i in range(len(x)):
            parts = []
            for head in range(heads):
                s = slice(head * d, (head + 1) * d)
                scores = torch.stack([q[i][s] @ k[j][s] / math.sqrt(d) for j in range(len(x))])
                weights = torch.exp(scores) / torch.exp(scores).sum()
                parts.append(sum(weights[j] * v[j][s] for j in range(len(x))))
            mixed.append(linear(f"{at}attention.o_proj", torch.cat(parts)))
        x = [u + m for u, m in zip(x, mixed, strict=True)]
        x = [u + linear(f"{at}mlp.down_proj", act(linear(f"{at}mlp.up_proj", norm(u, 1e-5)))) for u in x]
    return linear("classifier", sum(x) / len(x))


@pytest.mark.parametrize(("heads", "act", "width"), [(1, "relu", 6), (2, "gelu", 6), (1, "mish", 5), (2, "relu", 5)])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "topk_sparse:k=100"])
def test_logits_are_those_of_the_formulas(attention, heads, act, width):
    model = build(attention, num_attention_heads=heads, hidden_act=act, hidden_size=width)
    ids = tokens(batch=3)
    expected = torch.stack([oracle(model, row) for row in ids])
    bound = 4 * (model.double()(ids).logits - expected).abs().max() + 1e-6  # positions are rounded to fp32
    assert bound < 1e-5
    assert (model.float()(ids).logits.double() - expected).abs().max() < bound


def test_positions_are_rounded_once():
    exact = torch.tensor(
        [[math.sin(p / 10000 ** (i / 7)) if i % 2 == 0 else math.cos(p / 10000 ** ((i - 1) / 7)) for i in range(7)]
         for p in range(1000)], dtype=torch.float64,
    )  # fmt: skip
    assert (sinusoidal_positions(1000, 7).double() - exact).abs().max() <= 2**-24


def test_only_the_first_attention_norm_has_eps_zero():
    model = build()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 * 3
    tiny = 1e-4 * torch.randn(2, 3, 6)
    invariant = [torch.allclose(norm(tiny), norm(1000 * tiny), atol=1e-4) for norm in norms]
    assert invariant == [True, False, False, False, False, False]
    assert not list(norms[0].parameters())


def test_every_head_is_as_wide_as_a_token():
    model = build(num_attention_heads=4)
    shapes = {name: tuple(p.shape) for name, p in model.encoder.layers[0].attention.named_parameters()}
    assert shapes["q_proj.weight"] == shapes["k_proj.weight"] == shapes["v_proj.weight"] == (24, 6)
    assert shapes["o_proj.weight"] == (6, 24)
    assert shapes["q_proj.bias"] == (24,)


def test_initial_weights_fill_their_ranges():
    model = build(hidden_size=64, intermediate_size=48, num_attention_heads=2, vocab_size=100)
    weights = dict(model.named_parameters())
    limits = {"encoder.embed_tokens.weight": 0.1, "classifier.weight": 0.1, "classifier.bias": 0.0}
    for name, value in weights.items():
        if name not in limits:
            fan_in = weights[name.replace("bias", "weight")].shape[1]
            limits[name] = fan_in**-0.5
        assert value.abs().max() <= limits[name], name
        assert value.abs().max() >= 0.9 * limits[name], name
        assert value.min() <= -0.9 * limits[name], name


def test_attention_and_global_tokens_do_not_change_the_initial_weights():
    states = []
    for attention, g in (("sdpa", 0), ("topk_sparse:k=2", 0), (LOCAL, 2)):
        torch.manual_seed(3)
        states.append(build(attention, num_global_tokens=g).state_dict())
    assert states[2].pop("encoder.global_tokens").abs().max() > 0
    for state in states[1:]:
        assert all(torch.equal(states[0][name], state[name]) for name in {**states[0], **state})


def test_dropout_acts_where_the_paper_has_it():
    model = build("eager", hidden_act="gelu", dropout=0.5, hidden_size=64).train()
    seen = []
    model.encoder.layers[1].mlp.activation.register_forward_hook(lambda m, i, o: seen.append(i[0]))
    model.encoder.layers[1].mlp.down_proj.register_forward_hook(lambda m, i, o: seen.append(i[0]))
    weights = model(tokens(16, 20), output_attentions=True).attentions[0]
    assert 0.4 < (seen[0] == 0).float().mean() < 0.6
    torch.testing.assert_close(seen[1], torch.nn.functional.gelu(seen[0]))
    assert 0.4 < (weights == 0).float().mean() < 0.6
    states = []
    for module in (model.encoder.layers[0], model.encoder.layers[1].attention_norm):
        module.register_forward_pre_hook(lambda m, i: states.append(i[0]))
    parts = []
    for module in (model.encoder.layers[0].attention.o_proj, model.encoder.layers[0].mlp.down_proj):
        module.register_forward_hook(lambda m, i, o: parts.append(o))
    model(tokens(16, 20))
    assert 0.4 < (states[0] == 0).float().mean() < 0.6
    added = states[1] - states[0]
    choices = torch.stack([2 * (a * parts[0] + b * parts[1]) for a in (0, 1) for b in (0, 1)])
    assert ((added - choices).abs() < 1e-4).any(0).all()
    shares = ((added - choices).abs() < 1e-4).float().mean((1, 2, 3))
    assert ((shares > 0.2) & (shares < 0.3)).all()
    model.eval()
    assert torch.equal(model(ids := tokens()).logits, model(ids).logits)


def test_attention_function_gets_what_it_needs():
    calls = []

    def spy(module, query, key, value, mask, dropout, scaling, **kwargs):
        calls.append((module.layer_idx, module.is_causal, dropout, scaling, tuple(query.shape)))
        return query.transpose(1, 2), None

    AttentionInterface.register("spy", spy)
    try:
        model = build("spy", num_attention_heads=2, dropout=0.25)
        model.train()(tokens())
        model.eval()(tokens())
    finally:
        AttentionInterface._global_mapping.pop("spy")
    shape, scaling = (4, 2, 7, 6), 6**-0.5
    assert calls == [(i, False, p, scaling, shape) for p in (0.25, 0.0) for i in range(3)]


@pytest.mark.parametrize("p", [0.01, 0.1, 0.3])
def test_dropout_spares_every_element_independently(p):
    layer, rows, width = Dropout(p), 4000, 50
    x = torch.full((rows, width), 3.0, requires_grad=True)
    y = layer(x)
    y.backward(torch.full_like(x, 2.0))
    dropped = (y == 0).double()
    torch.testing.assert_close(y, torch.where(y == 0, 0.0, 3.0 / (1 - p)))
    torch.testing.assert_close(x.grad, torch.where(y == 0, 0.0, 2.0 / (1 - p)))
    deviation = math.sqrt(p * (1 - p))
    assert abs(dropped.mean() - p) < 5 * deviation / math.sqrt(rows * width)
    assert (abs(dropped.mean(0) - p) < 5 * deviation / math.sqrt(rows)).all()
    # independent elements: the number dropped in a row varies as a binomial does
    assert dropped.sum(1).var() == pytest.approx(width * p * (1 - p), rel=0.15)
    assert not torch.equal(layer(x), y)
    assert layer.eval()(x) is x


# ---- padding and global tokens


@pytest.mark.parametrize(("attention", "g"), [("sdpa", 0), ("eager", 2), ("topk_sparse:k=3", 1), (LOCAL, 2)])
def test_masked_padding_changes_nothing(attention, g):
    model = build(attention, num_global_tokens=g)
    ids = tokens(2, 7)
    expected = model(ids).logits
    padded = torch.cat([ids, torch.full((2, 5), 10)], dim=1)
    mask = (torch.arange(12) < 7).long().expand(2, 12)
    torch.testing.assert_close(model(padded, mask).logits, expected, atol=1e-6, rtol=0)
    poisoned = torch.where(mask.bool(), padded, torch.randint(0, VOCAB, (2, 12)))
    torch.testing.assert_close(model(poisoned, mask).logits, model(padded, mask).logits, atol=1e-6, rtol=0)
    assert (model(padded).logits - expected).abs().max() > 1e-4  # without a mask padding is a token


def test_rows_of_different_lengths_do_not_see_each_other():
    model = build()
    rows = [tokens(1, n) for n in (2, 9, 5)]
    ids = torch.cat([torch.nn.functional.pad(row, (0, 9 - row.shape[1]), value=10) for row in rows])
    mask = (torch.arange(9)[None] < torch.tensor([[2], [9], [5]])).long()
    expected = torch.cat([model(row).logits for row in rows])
    torch.testing.assert_close(model(ids, mask).logits, expected, atol=1e-6, rtol=0)


def test_a_row_without_tokens_is_finite():
    logits = build("eager")(tokens(2, 4), torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])).logits
    assert torch.isfinite(logits).all()


def test_global_tokens_see_all_and_are_seen_by_all():
    model = build("eager", num_global_tokens=2)
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 3)
    encoded = model.encoder(tokens(3, 5), mask, output_attentions=True)
    assert encoded.last_hidden_state.shape == (3, 7, 6)
    kept = torch.stack(encoded.attentions) > 0
    assert kept[..., [0, 1, 2, 5, 6]].all()
    assert not kept[..., [3, 4]].any()
    model(tokens(), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert model.encoder.global_tokens.grad.abs().min() > 0


def test_local_pattern_with_global_tokens_at_the_end():
    model = build(LOCAL, num_global_tokens=2)
    kept = model.encoder(tokens(1, 6), output_attentions=True).attentions[0][0, 0] > 0
    expected = torch.zeros(8, 8, dtype=torch.bool)
    for i in range(6):
        left = min(max(i - 1, 0), 3)
        expected[i, left : left + 3] = True
    expected[6:] = True
    expected[:, 6:] = True
    assert torch.equal(kept, expected)


def test_other_number_of_global_tokens_than_the_attention_is_refused():
    with pytest.raises(ValueError, match=r"2 global tokens at the end.*num_global_tokens=1"):
        build(LOCAL, num_global_tokens=1)
    settings = {"num_global_tokens": 3, "global_position": "last"}
    with pytest.raises(ValueError, match=r"3 global tokens at the end.*num_global_tokens=0"):
        build("banded_sparse:window=3", semfocus=settings)
    build("banded_sparse:window=3", semfocus=settings, num_global_tokens=3)
    build("banded_sparse:window=3,num_global_tokens=2")  # the first tokens of the text itself


# ---- Transformers


@pytest.mark.parametrize(("attention", "g"), [("sdpa", 0), (LOCAL, 2)])
def test_save_and_load_is_exact(tmp_path, attention, g):
    model = build(attention, num_global_tokens=g)
    ids, mask = tokens(), torch.tensor([[1] * 5 + [0] * 2] * 4)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation=attention).eval()
    assert type(again) is SemFocusEncoderForSequenceClassification
    assert torch.equal(again(ids, mask).logits, model(ids, mask).logits)
    base = AutoModel.from_pretrained(tmp_path, attn_implementation=attention).eval()
    assert type(base) is SemFocusEncoderModel
    assert torch.equal(base(ids, mask)[0], model.encoder(ids, mask)[0])
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == again.config.to_dict()


def test_new_head_on_a_saved_encoder_starts_in_its_range(tmp_path):
    build().encoder.save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=200)
    assert 0.09 < model.classifier.weight.abs().max() <= 0.1
    assert not model.classifier.bias.any()
    assert torch.equal(model.encoder.positions, sinusoidal_positions(32, 6))


@pytest.mark.parametrize("attention", ["sdpa", "topk_sparse:k=3"])
def test_gradient_checkpointing_changes_no_gradient(attention):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        model = build(attention, dropout=0.3).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(2)
        model(tokens(), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-7, rtol=1e-5, msg=name)


@pytest.mark.parametrize("attention", ["eager", "topk_sparse:k=3"])
def test_attentions_and_hidden_states_are_recorded(attention):
    model = build(attention, num_attention_heads=2)
    outputs = model(ids := tokens(), output_attentions=True, output_hidden_states=True)
    assert [tuple(a.shape) for a in outputs.attentions] == [(4, 2, 7, 7)] * 3
    torch.testing.assert_close(torch.stack(outputs.attentions).sum(-1), torch.ones(3, 4, 2, 7))
    assert len(outputs.hidden_states) == 4
    # without weights another backend computes the same
    torch.testing.assert_close(outputs.hidden_states[-1], model.encoder(ids).last_hidden_state)
    assert model(ids).attentions is None
    assert isinstance(model(ids, return_dict=False), tuple)


def test_loss_is_the_mean_cross_entropy():
    labels = torch.tensor([0, 2, 1, 1])
    outputs = build()(ids := tokens(), labels=labels)
    expected = -torch.stack([outputs.logits[i].softmax(-1)[label].log() for i, label in enumerate(labels)]).mean()
    torch.testing.assert_close(outputs.loss, expected)
    assert build()(ids).loss is None


def test_embeddings_in_place_of_ids():
    model, ids = build(), tokens()
    assert torch.equal(model(inputs_embeds=model.encoder.embed_tokens(ids)).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size=0; expected an integer of at least 1"),
        ({"num_attention_heads": 1.5}, "num_attention_heads=1.5"),
        ({"num_global_tokens": -1}, "num_global_tokens=-1; expected an integer of at least 0"),
        ({"hidden_act": "tanh"}, "hidden_act='tanh'; expected one of relu, gelu, mish"),
        ({"dropout": 1.0}, r"dropout=1.0; expected a number in \[0, 1\)"),
        ({"initializer_range": 0}, "initializer_range=0; expected a positive number"),
        ({"pad_token_id": VOCAB}, "pad_token_id=11; expected an id below vocab_size=11"),
    ],
)
def test_bad_configuration_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_bad_inputs_are_refused():
    model = build()
    with pytest.raises(ValueError, match="sequence of length 33; max_position_embeddings=32"):
        model(tokens(1, 33))
    with pytest.raises(ValueError, match=r"attention_mask of shape \(4, 8\); expected .*\(4, 7\)"):
        model(tokens(), torch.ones(4, 8))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model()
