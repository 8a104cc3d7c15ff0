"""Sampling: equal to transformers where it must be, independent of batch layout, resumable."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from equipoise.errors import DataError, DivergedError, SettingError
from equipoise.generate import Sampling, generate, prompt_ids, uniforms
from equipoise.models.decode import Reader, decode, draw

WORDS = 96
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} {{ m.role }} {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "</s>", "<unk>", "user", "assistant", *(f"w{i}" for i in range(6, WORDS))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=TEMPLATE,
    )


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,  # far from uniform, so that answers differ between prompts
    )
    return LlamaForCausalLM(config).eval()


def _prompts(count: int) -> list[dict]:
    """Prompts of 1 to 9 words, several of each length."""
    rng = np.random.default_rng(0)
    return [
        {
            "id": f"p{i}",
            "prompt": [{"role": "user", "content": " ".join(f"w{w}" for w in rng.integers(6, WORDS, 1 + i % 9))}],
            "kind": "benign",
            "category": None,
        }
        for i in range(count)
    ]


def _keyed(rows) -> dict:
    return {(row["prompt_id"], row["repeat"]): row for row in rows}


def _lead_to_end(model: LlamaForCausalLM, tokens: tuple[int, ...] = (2,), bias: float = 2.0) -> None:
    """Make the model end its answers after a while: end tokens are likelier by `bias` nats."""
    head = torch.nn.Linear(32, WORDS, bias=True)
    head.weight = model.lm_head.weight
    with torch.no_grad():
        head.bias.zero_()
        head.bias[list(tokens)] = bias
    model.lm_head = head


@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_greedy_equals_transformers(model, tokenizer, batch_tokens):
    prompts = _prompts(12)
    rows = _keyed(
        generate(model, tokenizer, prompts, Sampling(temperature=0, max_new_tokens=20), batch_tokens=batch_tokens)
    )
    assert len(rows) == 12
    for prompt in prompts:
        ids = torch.tensor([prompt_ids(tokenizer, prompt["prompt"])])
        want = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, pad_token_id=0
        )
        assert rows[prompt["id"], 0]["token_ids"] == want[0, ids.shape[1] :].tolist()


def test_answers_do_not_depend_on_batch_layout(model, tokenizer):
    prompts = _prompts(150)
    _lead_to_end(model)
    sampling = Sampling(max_new_tokens=24, repeats=4, top_p=0.95, seed=3)
    together = _keyed(generate(model, tokenizer, prompts, sampling, batch_tokens=8192))
    apart = _keyed(generate(model, tokenizer, prompts[::-1], sampling, batch_tokens=300))
    assert len(together) == 600 and together.keys() == apart.keys()
    lengths = {row["n_tokens"] for row in together.values()}
    assert len(lengths) > 10  # rows left the batches at many different steps
    equal = sum(together[k]["token_ids"] == apart[k]["token_ids"] for k in together)
    assert equal >= 0.999 * len(together)


def test_logp_equals_a_teacher_forced_pass(model, tokenizer):
    _lead_to_end(model)
    prompts = {row["id"]: row for row in _prompts(20)}
    sampling = Sampling(max_new_tokens=24, temperature=1.3, top_k=40, seed=1)
    reasons = set()
    for row in generate(model, tokenizer, list(prompts.values()), sampling):
        ids = list(prompt_ids(tokenizer, prompts[row["prompt_id"]]["prompt"]))
        whole = torch.tensor([ids + row["token_ids"]])
        with torch.no_grad():
            logps = model(whole).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        want = logps.gather(-1, torch.tensor(row["token_ids"]).unsqueeze(-1)).sum().item()
        assert row["logp"] == pytest.approx(want, abs=1e-4)
        assert row["n_tokens"] == len(row["token_ids"])
        reasons.add(row["finish_reason"])
    assert reasons == {"stop", "length"}


def test_resume_skips_finished_answers_and_changes_no_other(model, tokenizer):
    prompts, sampling = _prompts(10), Sampling(max_new_tokens=8, repeats=3, seed=5)
    seen = []
    whole = _keyed(
        generate(model, tokenizer, prompts, sampling, batch_tokens=200, progress=lambda *now: seen.append(now))
    )
    assert seen[-1] == (30, 30) and len(seen) > 1
    done = {key for key in whole if key != ("p4", 1) and key[0] != "p7"}
    rest = _keyed(generate(model, tokenizer, prompts, sampling, done=done))
    assert set(rest) == {("p4", 1), ("p7", 0), ("p7", 1), ("p7", 2)}
    assert all(rest[key]["text"] == whole[key]["text"] for key in rest)
    assert list(generate(model, tokenizer, prompts, sampling, done=set(whole))) == []


def test_rows_come_as_batches_finish(model, tokenizer):
    running = generate(model, tokenizer, _prompts(4), Sampling(max_new_tokens=4), batch_tokens=1)
    first = next(running)
    assert first["prompt_id"] == "p3"  # the longest prompt goes first
    assert first["kind"] == "benign" and first["category"] is None and first["prompt"][0]["role"] == "user"
    assert len(list(running)) == 3


def test_repeats_seeds_and_prompts_draw_different_answers(model, tokenizer):
    prompt = _prompts(1)[0]
    twins = [prompt, prompt | {"id": "other"}]
    rows = _keyed(generate(model, tokenizer, twins, Sampling(max_new_tokens=16, repeats=3)))
    again = _keyed(generate(model, tokenizer, twins, Sampling(max_new_tokens=16, repeats=3, seed=1)))
    assert len({row["text"] for row in [*rows.values(), *again.values()]}) == 12


def test_any_end_token_ends_an_answer(model, tokenizer):
    model.generation_config.eos_token_id = [2, 40]
    _lead_to_end(model, (2, 40), bias=6.0)
    rows = list(generate(model, tokenizer, _prompts(40), Sampling(max_new_tokens=60)))
    stopped = [row for row in rows if row["finish_reason"] == "stop"]
    assert {row["token_ids"][-1] for row in stopped} == {2, 40}
    for row in rows:
        assert not {2, 40} & set(row["token_ids"][:-1])
        assert "</s>" not in row["text"] and "w40" not in row["text"].split()


def test_stop_strings_cut_the_text(model, tokenizer):
    prompts = _prompts(6)
    free = _keyed(generate(model, tokenizer, prompts, Sampling(max_new_tokens=30, seed=2)))
    words = free["p2", 0]["text"].split()
    stop = next(f"{a} {b}" for a, b in itertools.pairwise(words[8:]))
    cut = _keyed(generate(model, tokenizer, prompts, Sampling(max_new_tokens=30, seed=2, stop=(stop,))))
    row = cut["p2", 0]
    at = free["p2", 0]["text"].find(stop)
    assert row["text"] == free["p2", 0]["text"][:at]
    assert row["finish_reason"] == "stop"
    assert row["token_ids"] == free["p2", 0]["token_ids"][: row["n_tokens"]]
    assert row["n_tokens"] == len(f"{row['text']} {stop}".split())


def test_draw_follows_the_distribution():
    probs = torch.tensor([0.1, 0.0, 0.6, 0.3])
    logits = probs.log().expand(8, 4)
    at = torch.tensor([0.0, 0.0999, 0.1001, 0.5, 0.6999, 0.7001, 0.99, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits, at).tolist() == [0, 0, 2, 2, 2, 3, 3, 3]
    # top_k 2 leaves {2, 3} with 2/3 and 1/3
    assert draw(logits, at, top_k=2).tolist() == [2, 2, 2, 2, 3, 3, 3, 3]
    # .6 reaches top_p .6 alone; at .65 the next one is needed
    assert draw(logits, at, top_p=0.599).tolist() == [2] * 8
    assert draw(logits, at, top_p=0.65).tolist() == [2, 2, 2, 2, 3, 3, 3, 3]
    # temperature .5 squares: (.01, 0, .36, .09) / .46
    assert draw(logits, at, temperature=0.5).tolist() == [0, 2, 2, 2, 2, 2, 3, 3]


def test_draw_has_the_right_frequencies():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(3000, 3)
    at = torch.from_numpy(np.concatenate([uniforms(0, f"p{i}", 0, 10) for i in range(300)]))
    share = draw(logits, at).bincount(minlength=3) / 3000
    want = torch.tensor([1.0, math.e, math.e**2]) / (1 + math.e + math.e**2)
    assert (share - want).abs().max() < 3 * math.sqrt(0.25 / 3000)


def test_uniforms_depend_on_every_argument_and_on_nothing_else():
    base = uniforms(0, "p1", 0, 5)
    assert base.tolist() == uniforms(0, "p1", 0, 9)[:5].tolist()
    others = [uniforms(1, "p1", 0, 5), uniforms(0, "p2", 0, 5), uniforms(0, "p1", 1, 5)]
    assert not any(np.isin(other, base).any() for other in others)
    many = uniforms(7, "x", 0, 100_000)
    assert many.min() >= 0
    assert many.max() < 1
    assert abs(many.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(many[:-1], many[1:])[0, 1]) < 0.015


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft 0.21 on transformers 5.23
def test_an_adapter_and_the_scoring_entry_are_sampled_from(model, tokenizer):
    from equipoise.models.scored import give_entry

    prompts, sampling = _prompts(6), Sampling(max_new_tokens=10, seed=1)
    plain = _keyed(generate(model, tokenizer, prompts, sampling))
    torch.manual_seed(1)
    adapted = get_peft_model(
        give_entry(model), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    adapted.train()
    tuned = _keyed(generate(adapted, tokenizer, prompts, sampling))
    assert adapted.training
    assert any(plain[k]["text"] != tuned[k]["text"] for k in plain)
    with adapted.disable_adapter():
        off = _keyed(generate(adapted, tokenizer, prompts, sampling))
    assert {k: row["token_ids"] for k, row in off.items()} == {k: row["token_ids"] for k, row in plain.items()}


def test_sliding_windows_are_respected(tokenizer):
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=6,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    mistral = MistralForCausalLM(config).eval()
    together = _keyed(generate(mistral, tokenizer, _prompts(12), Sampling(temperature=0, max_new_tokens=12)))
    for prompt in _prompts(12):
        ids = torch.tensor([prompt_ids(tokenizer, prompt["prompt"])])
        want = mistral.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=0
        )
        assert together[prompt["id"], 0]["token_ids"] == want[0, ids.shape[1] :].tolist()


def test_refusals(model, tokenizer):
    prompts, sampling = _prompts(3), Sampling(max_new_tokens=4)
    with pytest.raises(DataError, match="'p0' occurs twice"):
        next(generate(model, tokenizer, [prompts[0], prompts[0]], sampling))
    with pytest.raises(DataError, match=r"'p2' has 6 tokens, and max_new_tokens 123 .* 128 positions"):
        next(generate(model, tokenizer, prompts, Sampling(max_new_tokens=123)))
    small = LlamaForCausalLM(LlamaConfig(**(model.config.to_dict() | {"vocab_size": 64})))
    with pytest.raises(SettingError, match="ids go up to 95"):
        next(generate(small, tokenizer, prompts, sampling))
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(DivergedError, match="prompt 'p2'"):
        next(generate(model, tokenizer, prompts, sampling))


def test_a_tokenizer_without_template_is_refused(model, tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    with pytest.raises(SettingError, match="no chat template"):
        next(generate(model, bare, _prompts(1), Sampling(max_new_tokens=4)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"top_p": 0},
        {"top_k": 0},
        {"max_new_tokens": 0},
        {"repeats": 0},
        {"temprature": 1.0},
        {"temperature": 0, "repeats": 2},
        {"stop": ("",)},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        Sampling(**wrong)


def test_a_model_without_a_cache_is_refused():
    class Bare(torch.nn.Module):
        def forward(self, input_ids):
            return input_ids

    with pytest.raises(SettingError, match="Bare keeps no key-value cache"):
        Reader.of(Bare())


def test_decode_without_random_numbers_is_greedy(model):
    reader = Reader.of(model)
    answers = decode(reader, [(1, 7, 8), (1, 9)], None, max_new_tokens=3, end_ids=(2,))
    with torch.no_grad():
        first = model(torch.tensor([[1, 9]])).logits[0, -1].argmax().item()
    assert answers[1].ids[0] == first
    assert not answers[0].ended and len(answers[0].ids) == 3
