import pytest
import torch

import pico
from equipoise.data.collate import attention_mask, collate
from equipoise.data.tokens import Branch, Encoded
from equipoise.models import scored
from equipoise.models.scored import check_head, choose_layout, give_entry
from equipoise.models.tree import TREE

ROWS = pico.pair_rows(9)


def by_hand(model, row):
    """Log-probability of each branch, token by token, from the model's own logits."""
    out = []
    for branch in row.branches:
        ids = row.shared + branch.ids
        logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        first = len(row.shared) + branch.lead
        out.append(sum(logits[t - 1, ids[t]] for t in range(first, len(ids))))
    return out


LAYOUTS = {"plain": {"shared": False}, "padded": {"shared": True}, "line": {"shared": True, "line": True}}


def in_line(model):
    model.set_attn_implementation(TREE)
    return model


@pytest.mark.parametrize("layout", LAYOUTS)
def test_entry_equals_the_models_own_logits(layout):
    model = in_line(give_entry(pico.llama(dtype=torch.float64)))
    with torch.no_grad():
        got = model(packed=collate(ROWS, **LAYOUTS[layout]))
        want = torch.tensor([by_hand(model, row) for row in ROWS])
    assert torch.allclose(got, want, atol=1e-9)


def test_layouts_agree_in_values_and_gradients():
    grads = {}
    weights = torch.linspace(-1, 1, 2 * len(ROWS), dtype=torch.float64).view(-1, 2)
    for name, how in LAYOUTS.items():
        model = in_line(give_entry(pico.llama(dtype=torch.float64))).train()
        (model(packed=collate(ROWS, **how)) * weights).sum().backward()
        grads[name] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.allclose(grads["padded"], grads["plain"], atol=1e-9, rtol=1e-9)
    assert torch.allclose(grads["line"], grads["plain"], atol=1e-9, rtol=1e-9)


def test_micro_batches_of_one_equal_one_of_all():
    model = give_entry(pico.llama(dtype=torch.float64))
    with torch.no_grad():
        together = model(packed=collate(ROWS))
        alone = torch.cat([model(packed=collate([row])) for row in ROWS])
    assert torch.allclose(together, alone, atol=1e-9)


def test_chunked_and_recomputed_head_equals_the_plain_one(monkeypatch):
    def run():
        model = give_entry(pico.llama(dtype=torch.float64)).train()
        value = model(packed=collate(ROWS)).sum()
        value.backward()
        return value.item(), torch.cat([p.grad.flatten() for p in model.parameters()])

    value, gradient = run()
    monkeypatch.setattr(scored, "KEPT_LOGITS", 10)
    monkeypatch.setattr(scored, "CHUNK_LOGITS", 7 * pico.VOCABULARY)
    chunked, chunked_gradient = run()
    assert value == pytest.approx(chunked, abs=1e-9)
    assert torch.allclose(gradient, chunked_gradient, atol=1e-9)


def test_the_mask_keeps_the_answers_apart():
    row = Encoded([5, 6], (Branch([7, 8], 0), Branch([9], 0)))
    packed = collate([row, Encoded([5], (Branch([6], 0), Branch([7], 0)))])
    seen = attention_mask(packed.segments)[0, 0].int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    padded = attention_mask(packed.segments)[1, 0].int().tolist()
    assert padded[3] == [0, 0, 0, 1, 0] and padded[4] == [0, 0, 0, 0, 1], "an empty softmax row would be NaN"
    assert packed.position_ids[0].tolist() == [0, 1, 2, 3, 2]
    assert packed.predictors[:3].tolist() == [1, 2, 1], "the prompt's last token predicts the first of both answers"


def test_first_answer_token_counts_and_prompt_tokens_do_not():
    model = give_entry(pico.llama(dtype=torch.float64))
    one = Encoded([5, 6], (Branch([7], 0),))
    other = Encoded([5, 6], (Branch([8], 0),))
    with torch.no_grad():
        a, b = (model(packed=collate([r])).item() for r in (one, other))
        logits = model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].log_softmax(-1)
    assert (a, b) == pytest.approx((logits[7].item(), logits[8].item()), abs=1e-9)


def test_entry_keeps_class_saving_and_plain_calls(tmp_path):
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    model = give_entry(pico.llama())
    assert isinstance(model, LlamaForCausalLM)
    assert give_entry(model) is model
    model.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(plain) is LlamaForCausalLM and plain.config.architectures == ["LlamaForCausalLM"]
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(plain(input_ids=ids).logits, model(input_ids=ids).logits)


def test_models_say_whether_they_can_share_prompts():
    model = give_entry(pico.llama())
    check_head(model)
    assert choose_layout(model) == (True, True, "")
    model.config._attn_implementation = "flash_attention_2"
    assert choose_layout(model).shared is False


def test_sliding_windows_run_the_plain_path():
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, sliding_window=8,
    )  # fmt: skip
    layout = choose_layout(give_entry(MistralForCausalLM(config).eval()))
    assert not layout.shared and "sliding" in layout.why


def test_an_unknown_head_is_refused():
    model = give_entry(pico.llama())

    class Doubled(torch.nn.Module):
        def forward(self, *args, packed=None, **kwargs):
            out = type(model).__mro__[1].forward(model, *args, packed=packed, **kwargs)
            if packed is None:
                out.logits = out.logits * 2
            return out

    doubled = Doubled()
    doubled.config, doubled.training = model.config, False
    doubled.parameters = model.parameters
    with pytest.raises(ValueError, match="logits"):
        check_head(doubled)
