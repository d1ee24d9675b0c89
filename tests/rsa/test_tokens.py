"""Tokens of generated text: against one forward over all of them, seen by plain torch hooks."""

import numpy as np
import pytest
import torch
import transformers
import xarray as xr
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import lensframe_pd as lf

SMALL = {"vocab_size": 60, "eos_token_id": None, "bos_token_id": None, "pad_token_id": None}


def gpt2():
    return GPT2LMHeadModel(GPT2Config(**SMALL, n_positions=64, n_embd=16, n_layer=2, n_head=2))


def llama(heads=2, **options):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = {"num_attention_heads": heads, "num_key_value_heads": heads // 2, **sizes, **options}
    return LlamaForCausalLM(LlamaConfig(**SMALL, **config))


def mistral():
    config = transformers.MistralConfig(
        **SMALL, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=4,
    )  # fmt: skip
    return transformers.MistralForCausalLM(config)


def neox():
    config = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = {"intermediate_size": 24, "max_position_embeddings": 64}
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SMALL, **config, **sizes))


def opt():
    config = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24}
    more = {"max_position_embeddings": 64, "word_embed_proj_dim": 16}
    return transformers.OPTForCausalLM(transformers.OPTConfig(**{**SMALL, **config, **more}))


def made(make, **options):
    torch.manual_seed(0)
    return make(**options).eval()


def prompts(n, length, left=()):
    """Texts, and their mask: of text k the first `left[k]` tokens are padding, 1."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 60, (n, length), generator=generator)
    mask = torch.ones_like(ids)
    for k, padded in enumerate(left):
        ids[k, :padded], mask[k, :padded] = 1, 0
    return ids, mask


def generated(model, ids, mask, new=6, **options):
    text = {"input_ids": ids, "attention_mask": mask}
    options = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 1, **options}
    names = [f"text {k}" for k in range(len(ids))]
    with torch.no_grad():
        return lf.trace(model.generate, text, options, stimulus=names)


def hooked(model, path, ids, mask):
    """What a module gives in one forward over all tokens that were read."""
    seen = []
    handle = model.get_submodule(path).register_forward_hook(
        lambda module, args, output: seen.append(
            (output[0] if isinstance(output, tuple) else output).detach().numpy()
        )
    )
    whole = torch.cat([mask, torch.ones(len(ids), ids.shape[1] - mask.shape[1]).long()], 1)[:, :-1]
    options = {"attention_mask": whole, "use_cache": False}
    if "OPT" not in type(model).__name__:  # that makes them of the mask itself
        options["position_ids"] = (whole.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        model(ids[:, :-1], **options)
    handle.remove()
    return seen[-1]


def deepseek():
    config = transformers.DeepseekV3Config(
        **SMALL, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, n_routed_experts=2, n_group=1, topk_group=1, num_experts_per_tok=1,
        first_k_dense_replace=1, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4,
        qk_nope_head_dim=4, v_head_dim=8, moe_intermediate_size=8,
    )  # fmt: skip
    return transformers.DeepseekV3ForCausalLM(config)


def falcon():
    config = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.FalconForCausalLM(transformers.FalconConfig(**SMALL, **config))


CASES = {
    "gpt2": (gpt2, {}, "transformer.h.1", (2, 5), (), {}),
    "gpt2 attention": (gpt2, {}, "transformer.h.0.attn.c_attn", (2, 5), (), {}),
    "gpt2 one token": (gpt2, {}, "transformer.h.1", (2, 1), (), {}),
    "gpt2 one token of one text": (gpt2, {}, "transformer.h.1.mlp", (1, 1), (), {}),
    "gpt2 as many texts as tokens": (gpt2, {}, "transformer.h.1", (5, 5), (), {}),
    "gpt2 left padding": (gpt2, {}, "transformer.h.1", (3, 6), (0, 2, 4), {}),
    "gpt2 eager": (gpt2, {"attn_implementation": "eager"}, "transformer.ln_f", (2, 5), (1,), {}),
    "llama dynamic": (llama, {}, "model.layers.1", (2, 5), (), {}),
    "llama static": (llama, {}, "model.layers.1", (2, 5), (), {"cache_implementation": "static"}),
    "llama static, one token": (
        llama, {}, "model.layers.0.mlp", (1, 1), (), {"cache_implementation": "static"}),
    "llama static, padded": (
        llama, {}, "model.norm", (2, 5), (0, 3), {"cache_implementation": "static"}),
    "llama padded": (llama, {}, "model.layers.0.self_attn.q_proj", (3, 5), (2, 0, 1), {}),
    "llama, more heads": (llama, {"heads": 4}, "model.layers.1", (2, 1), (), {}),
    "llama sampled": (llama, {}, "model.layers.1", (2, 4), (), {"do_sample": True}),
    "mistral, past its window": (mistral, {}, "model.layers.1", (2, 3), (), {}),
    "gpt-neox": (neox, {}, "gpt_neox.layers.1", (2, 4), (1, 0), {}),
    "deepseek, keys in one head": (deepseek, {}, "model.layers.1", (2, 4), (), {}),
    "falcon, one head for all": (falcon, {}, "transformer.h.1", (2, 1), (), {}),
    "opt": (opt, {}, "model.decoder.layers.1", (2, 4), (0, 2), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_generated_text_is_one_forward(case):
    make, config, path, size, left, options = CASES[case]
    implementation = config.pop("attn_implementation", None) if config else None
    model = made(make, **config)
    if implementation:
        model.set_attn_implementation(implementation)
    ids, mask = prompts(*size, left)
    torch.manual_seed(3)
    trace = generated(model, ids, mask, **options)
    found = trace.activations.lens.tokens(path, trace.output, mask)
    assert found.dims[:2] == ("stimulus", "token")
    assert found["token"].values.tolist() == [*range(size[1] + 5)]
    np.testing.assert_array_equal(found["token_id"], trace.output[:, :-1])
    assert list(found["stimulus"]) == [f"text {k}" for k in range(size[0])]
    expected = np.ones((size[0], size[1] + 5), bool)
    for k, padded in enumerate(left):
        expected[k, :padded] = False
    np.testing.assert_array_equal(found["valid"], expected)
    valid = found["valid"].values
    whole = hooked(model, path, trace.output, mask)
    np.testing.assert_allclose(found.values[valid], whole[valid], atol=1e-5)
    np.testing.assert_array_equal(trace.activations.lens[path], found)


def test_the_head_has_the_last_token_of_the_prompt_and_those_after():
    model = made(llama)
    ids, mask = prompts(2, 5)
    trace = generated(model, ids, mask)
    found = trace.activations.lens.tokens("lm_head", trace.output)
    assert found["token"].values.tolist() == [4, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(found["token_id"], trace.output[:, 4:-1])
    whole = hooked(model, "lm_head", trace.output, mask)
    np.testing.assert_allclose(found.values, whole[:, 4:], atol=1e-5)
    np.testing.assert_array_equal(found.values.argmax(-1), trace.output[:, 5:])


def test_a_layer_is_joined_as_a_module_is():
    trace = generated(made(gpt2), *prompts(2, 5))
    op = trace.layers.query("module == 'transformer.h.1' and n_passes == 6")["layer"].iloc[-1]
    found = trace.activations.lens[op]
    assert found.name == op
    np.testing.assert_array_equal(found, trace.activations.lens["transformer.h.1"])
    parts = [trace.activations[f"{op}:{k}"].values for k in range(1, 7)]
    np.testing.assert_array_equal(found, np.concatenate(parts, 1))
    assert not {"pass_num", "sequence", "token_start"} & {*found.attrs}


def test_one_pass_says_which_tokens_it_read():
    trace = generated(made(gpt2), *prompts(2, 5))
    label = trace.layers.query("module == 'transformer.wte' and pass_num == 3").index[0]
    found = trace.activations.lens[label]
    assert found["token"].values.tolist() == [6]
    tokens = trace.activations.lens.tokens(label, trace.output)
    np.testing.assert_array_equal(tokens["token_id"], trace.output[:, 6:7])


def test_heads_have_their_tokens_along_the_queries():
    model = made(llama)
    model.set_attn_implementation("eager")
    trace = generated(model, *prompts(2, 5), cache_implementation="static")
    softmax = trace.layers.query("func == 'softmax'")["layer"].iloc[0]
    found = trace.activations.lens.tokens(softmax, trace.output)
    assert found.dims == ("stimulus", "head", "token", "token_") or found.dims[2] == "token"
    assert found.sizes["token"] == 10
    grown = generated(model, *prompts(2, 5))
    softmax = grown.layers.query("func == 'softmax'")["layer"].iloc[0]
    with pytest.raises(ValueError, match="differ in more than their tokens"):
        grown.activations.lens[softmax]


def test_a_text_that_ends_early():
    model = made(gpt2)
    ids, mask = prompts(3, 5, (1, 0, 2))
    free = generated(model, ids, mask, new=7).output
    end = int(free[1, 6])  # the second token that the second text gets
    trace = generated(model, ids, mask, new=7, eos_token_id=end)
    out = trace.output
    first = [next((t for t in range(5, out.shape[1]) if out[k, t] == end), 99) for k in range(3)]
    assert first[1] <= 6
    assert max(first) > 6
    read = np.arange(out.shape[1] - 1)
    expected = (read <= np.array(first)[:, None]) & (read >= np.array([1, 0, 2])[:, None])
    lens = trace.activations.lens
    found = lens.tokens("transformer.h.1", out, mask, end=end)
    np.testing.assert_array_equal(found["valid"], expected)
    # the padding before the prompts tells that after the end
    np.testing.assert_array_equal(lens.tokens("transformer.h.1", out, mask)["valid"], expected)
    long = torch.cat([mask, (torch.arange(5, out.shape[1]) <= torch.tensor(first)[:, None])], 1)
    np.testing.assert_array_equal(lens.tokens("transformer.h.1", out, long)["valid"], expected)
    valid = found["valid"].values
    whole = hooked(model, "transformer.h.1", out, mask)
    np.testing.assert_allclose(found.values[valid], whole[valid], atol=1e-5)


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("returned", [1, 3])
def test_beams(make, returned):
    model = made(make)
    ids, mask = prompts(2, 4, (0, 1))
    path = "transformer.h.1" if make is gpt2 else "model.layers.1"
    trace = generated(
        model, ids, mask, num_beams=3, num_return_sequences=returned,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    out = trace.output
    lens = trace.activations.lens
    found = lens.tokens(path, out.sequences, mask.repeat_interleave(returned, 0), out.beam_indices)
    lead = ("stimulus", "token") if returned == 1 else ("stimulus", "returned", "token")
    assert found.dims[: len(lead)] == lead
    assert list(found["stimulus"]) == ["text 0", "text 1"]
    flat = found.values.reshape(2 * returned, 9, -1)
    valid = found["valid"].values.reshape(2 * returned, 9)
    assert valid[0].all()
    assert valid[-1].sum() == 8
    whole = hooked(model, path, out.sequences, mask.repeat_interleave(returned, 0))
    np.testing.assert_allclose(flat[valid], whole[valid], atol=1e-5)
    with pytest.raises(ValueError, match=r"changed places.*beams=output.beam_indices"):
        lens[path]
    with pytest.raises(ValueError, match="beams"):
        lens.tokens(path, out.sequences)


def test_beams_that_end_early_have_no_values_after():
    model = made(gpt2)
    ids, mask = prompts(2, 4)
    options = {"num_beams": 3, "return_dict_in_generate": True, "output_scores": True}
    free = generated(model, ids, mask, new=7, **options).output.sequences
    trace = generated(model, ids, mask, new=7, eos_token_id=int(free[0, 5]), **options)
    out = trace.output
    found = trace.activations.lens.tokens("transformer.h.1", out.sequences, mask, out.beam_indices)
    ended = out.beam_indices.numpy() < 0
    n = found.sizes["token"]
    expected = np.ones((2, n), bool)
    expected[:, 4:] = ~np.pad(ended, ((0, 0), (0, 9)), constant_values=True)[:, 1 : n - 3]
    np.testing.assert_array_equal(found["valid"], expected)
    np.testing.assert_array_equal(np.isnan(found).any("feature"), ~expected)


class Chunks(nn.Module):
    """Reads a text in pieces, with the cache of the pieces before."""

    def __init__(self, model, cut):
        super().__init__()
        self.model, self.cut = model, cut

    def forward(self, ids):
        past = None
        for piece in ids.split(self.cut, 1):
            past = self.model(piece, past_key_values=past, use_cache=True).past_key_values
        return piece


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated")
@pytest.mark.parametrize("cut", [[2, 3, 4], [4, 4, 1], [3, 3, 3], [1, 1, 7]])
@pytest.mark.parametrize("make", [gpt2, llama])
def test_a_text_read_in_pieces(make, cut):
    model = made(make)
    ids, mask = prompts(3, 9)
    path = "transformer.h.1" if make is gpt2 else "model.layers.1"
    with torch.no_grad():
        trace = lf.trace(Chunks(model, cut), ids)
    found = trace.activations.lens.tokens(f"model.{path}", ids)
    np.testing.assert_array_equal(found["token_id"], ids)
    seen = hooked(model, path, torch.cat([ids, ids[:, :1]], 1), mask)
    np.testing.assert_allclose(found.values, seen, atol=1e-5)


class Own(nn.Module):
    """A language model of nobody's library: the cache is written in place, or put behind."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.embed, self.out = nn.Embedding(20, 8), nn.Linear(8, 20)
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, ids, cache, start):
        x = self.embed(ids)
        stop = start + ids.shape[1]
        k, v = self.k(x), self.v(x)
        if self.way == "buffer":
            cache[0][: len(ids), start:stop], cache[1][: len(ids), start:stop] = k, v
            k, v = cache[0][: len(ids), :stop], cache[1][: len(ids), :stop]
        elif cache is not None:
            k, v = torch.cat([cache[0], k], 1), torch.cat((cache[1], v), dim=1)
        mask = torch.ones(ids.shape[1], stop).tril(start) == 0
        scores = (self.q(x) @ k.transpose(1, 2)).masked_fill(mask, float("-inf"))
        x = x + scores.softmax(-1) @ v
        return self.out(x), (cache if self.way == "buffer" else (k, v))


class Loop(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.net, self.way = Own(way), way

    def forward(self, ids):
        cache = [torch.zeros(4, 16, 8), torch.zeros(4, 16, 8)] if self.way == "buffer" else None
        start = 0
        for _ in range(4):
            logits, cache = self.net(ids, cache, start)
            start += ids.shape[1]
            ids = logits[:, -1:].argmax(-1)
        return logits


@pytest.mark.parametrize("way", ["buffer", "cat"])
@pytest.mark.parametrize("n", [1, 3])
def test_a_model_of_ones_own(way, n):
    torch.manual_seed(0)
    model = Loop(way).eval()
    ids = torch.randint(20, (2, n))
    with torch.no_grad():
        trace = lf.trace(model, ids)
        read = trace.activations.lens.tokens("net.embed")
        assert read.sizes == {"stimulus": 2, "token": n + 3, "feature": 8}
        later = [trace.activations[f"argmax_1:{k}"].values for k in (1, 2, 3)]
        texts = np.concatenate([ids, *later], 1)
        found = trace.activations.lens.tokens("net.out", texts)
        expected, _ = (
            model.net.requires_grad_(False)(torch.tensor(texts), None, 0)
            if (way == "cat")
            else model.net(torch.tensor(texts), [torch.zeros(4, 16, 8), torch.zeros(4, 16, 8)], 0)
        )
    np.testing.assert_allclose(found.values, expected.numpy(), atol=1e-5)


REFUSED = {
    "use_cache=False": (llama, {"use_cache": False}, "use_cache=False"),
    "assisted": (llama, {"assistant_model": llama}, "assisted decoding"),
    "prompt lookup": (gpt2, {"prompt_lookup_num_tokens": 2}, "assisted decoding"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_continue_is_refused(case):
    make, options, words = REFUSED[case]
    model = made(make)
    if "assistant_model" in options:
        torch.manual_seed(5)
        options = {"assistant_model": make().eval()}
    ids, mask = prompts(1, 6)
    ids[:] = torch.tensor([5, 6, 7, 5, 6, 7])
    trace = generated(model, ids, mask, **options)
    path = "transformer.h.1" if make is gpt2 else "model.layers.1"
    with pytest.raises(ValueError, match=words) as error:
        trace.activations.lens.tokens(path, trace.output)
    assert path in str(error.value)


class Twice(nn.Module):
    """Two calls of one module that have nothing to do with each other."""

    def __init__(self, join):
        super().__init__()
        self.encode, self.join = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8)), join

    def forward(self, ids):
        a, b = self.encode(ids), self.encode(ids.flip(1))
        return torch.cat([a, b], 1) if self.join else a - b


class Dense(nn.Module):
    """A block that puts what it makes to what it read, again and again: deeper, not longer."""

    def __init__(self):
        super().__init__()
        self.block = self.Block()

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(4, 4)

        def forward(self, x):
            return torch.cat([x, self.mix(x[:, -1:])], 1)

    def forward(self, x):
        for _ in range(3):
            x = self.block(x)
        return x


@pytest.mark.parametrize("join", [True, False])
def test_calls_that_have_nothing_to_do_with_each_other(join):
    trace = lf.trace(Twice(join).eval(), torch.randint(20, (2, 5)))
    lens = trace.activations.lens
    with pytest.raises(ValueError, match="nothing to do with each other"):
        lens.tokens("encode")
    assert lens["encode"].dims == ("pass_num", "stimulus", "token", "feature")


def test_a_block_that_goes_deeper_is_no_longer_text():
    lens = lf.trace(Dense().eval(), torch.rand(2, 1, 4)).activations.lens
    assert lens["block.mix"].dims[0] == "pass_num"
    with pytest.raises(ValueError, match="do not continue"):
        lens.tokens("block.mix")


def test_two_generations_are_two_sequences():
    model = made(llama)
    ids, mask = prompts(2, 3)

    def both(ids):
        options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 1}
        return [model.generate(x, attention_mask=mask, **options) for x in (ids, ids + 1)]

    with torch.no_grad():
        trace = lf.trace(both, ids)
    path = "model.model.layers.1"
    found = trace.activations.lens[path]
    assert found.dims[:3] == ("pass_num", "stimulus", "token")
    assert found.sizes["pass_num"] == 2
    assert found.sizes["token"] == 5
    for k, output in enumerate(trace.output):
        whole = hooked(model, "model.layers.1", output, mask)
        np.testing.assert_allclose(found[k], whole, atol=1e-5)
    with pytest.raises(ValueError, match="2 sequences"):
        trace.activations.lens.tokens(path)


class Branches(nn.Module):
    """One beginning, and two ways to go on from it."""

    def __init__(self):
        super().__init__()
        self.net = Own("cat")

    def forward(self, ids):
        _, cache = self.net(ids[:, :3], None, 0)
        return [self.net(ids[:, k : k + 1], cache, 3)[0] for k in (3, 4)]


def test_two_ways_to_go_on_are_not_one_text():
    activations = lf.trace(Branches().eval(), torch.randint(20, (2, 5))).activations
    with pytest.raises(ValueError, match="do not continue one another"):
        activations.lens.tokens("net.out")


def test_one_new_token_is_one_pass():
    trace = generated(made(gpt2), *prompts(2, 5), new=1)
    found = trace.activations.lens.tokens("transformer.h.1", trace.output)
    assert found.sizes["token"] == 5
    np.testing.assert_array_equal(found["token_id"], trace.output[:, :-1])


def test_the_tokens_of_one_text_are_no_stimuli():
    trace = generated(made(gpt2), *prompts(1, 5))
    dims = [trace.activations[f"embedding_1:{k}"].dims for k in (1, 2, 6)]
    assert dims == [("stimulus", f"token_{n}", "feature_16") for n in (5, 1, 1)]


def test_passes_that_were_selected_keep_their_numbers():
    trace = generated(made(gpt2), *prompts(2, 5))
    labels = trace.layers.query("module == 'transformer.ln_f' and pass_num in (1, 4)").index
    found = trace.activations[[*labels]].lens["transformer.ln_f"]
    assert found["token"].values.tolist() == [0, 1, 2, 3, 4, 7]
    cut = trace.activations.isel(token_5=slice(1, 3))[[*labels]]
    with pytest.raises(ValueError, match="unequal shapes"):
        cut.lens["transformer.ln_f"]


@pytest.mark.parametrize("name", ["kept.zarr", "kept.nc"])
def test_files_keep_them(tmp_path, name):
    trace = generated(made(gpt2), *prompts(2, 5))
    kept = trace.activations[[*trace.layers.query("module == 'transformer.ln_f'").index]]
    lf.write(kept, tmp_path / name)
    read = lf.read(tmp_path / name)
    found = read.lens.tokens("transformer.ln_f", trace.output)
    expected = trace.activations.lens.tokens("transformer.ln_f", trace.output)
    xr.testing.assert_equal(found.load(), expected)


def test_rdms_are_of_all_tokens():
    trace = generated(made(gpt2), *prompts(3, 5))
    lens = trace.activations.lens
    matrix = lens.features("transformer.ln_f", pool={"token": "mean"})
    expected = lens["transformer.ln_f"].values.mean(1)
    np.testing.assert_allclose(matrix, expected, atol=1e-6)
    (layer,) = {*trace.layers.query("module == 'transformer.ln_f'")["layer"]}
    assert lens.rdm([layer], "cosine", pool={"token": "mean"}).sizes["layer"] == 1


def test_what_does_not_fit_is_refused():
    trace = generated(made(gpt2), *prompts(2, 5))
    lens, out = trace.activations.lens, trace.output
    path = "transformer.ln_f"
    for arguments, error, words in [
        ({"ids": out[:, 5:]}, ValueError, "ids has 6 tokens of each text, .* at least 10"),
        ({"ids": out[:1]}, ValueError, "ids has 1 texts, and the trace 2"),
        ({"ids": out.float()}, TypeError, "ids must be whole numbers"),
        ({"ids": out[0]}, TypeError, "ids must be whole numbers"),
        ({"mask": torch.ones(2, 3).long()}, ValueError, "mask has 3 .* prompt had 5"),
        ({"end": 3}, ValueError, "needs ids"),
        ({"beams": torch.full((2, 6), 7)}, ValueError, "row 7"),
        ({"beams": torch.zeros(3, 6).long()}, ValueError, "beams has 3 texts"),
    ]:
        with pytest.raises(error, match=words):
            lens.tokens(path, **arguments)
    with pytest.raises(KeyError, match="ln_f"):
        lens.tokens("transformer.ln_g")
    with pytest.raises(ValueError, match="no axis of tokens"):
        lf.trace(nn.Linear(3, 2).eval(), torch.ones(4, 3)).activations.lens.tokens("linear_1")


def test_ids_are_joined_by_stimulus():
    trace = generated(made(gpt2), *prompts(2, 5))
    ids = xr.DataArray(
        trace.output.flip(0).numpy(), {"stimulus": ["text 1", "text 0"]}, ("stimulus", "token")
    )
    found = trace.activations.lens.tokens("transformer.ln_f", ids)
    np.testing.assert_array_equal(found["token_id"], trace.output[:, :-1])


def test_a_store_of_many_texts(tmp_path):
    """Seven texts in threes: the last alone."""
    model, (ids, mask) = made(llama), prompts(7, 4)

    def write(ids):
        options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 1}
        return model.generate(ids, attention_mask=torch.ones_like(ids), **options)

    with torch.no_grad():
        rows = lf.trace(write, ids[:2], save=None).layers.query("module == 'model.model.norm'")
        last = rows[rows["func"] == "mul"].groupby("pass_num").tail(1)
        lf.extract(write, ids, to=tmp_path / "texts.zarr", save=last, batch_size=3)
        out = write(ids)
    read = lf.read(tmp_path / "texts.zarr")
    found = read.lens.tokens(str(last["layer"].iloc[0]), out)
    np.testing.assert_allclose(found, hooked(model, "model.norm", out, mask), atol=1e-5)


@pytest.mark.parametrize("size", [(2, 5), (1, 1)])
def test_a_decoder_reads_its_own_text(size):
    """The encoder ran once; the decoder began with one token."""
    config = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    model = made(
        lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=60, decoder_start_token_id=0, eos_token_id=None, **config
            )
        )
    )
    ids, mask = prompts(*size)
    trace = generated(model, ids, mask)
    found = trace.activations.lens.tokens("decoder.final_layer_norm", trace.output)
    np.testing.assert_array_equal(found["token_id"], trace.output[:, :-1])
    seen = []
    model.decoder.final_layer_norm.register_forward_hook(lambda m, args, out: seen.append(out))
    with torch.no_grad():
        model(ids, attention_mask=mask, decoder_input_ids=trace.output[:, :-1], use_cache=False)
    np.testing.assert_allclose(found, seen[0].numpy(), atol=1e-5)


def test_a_state_of_all_tokens_is_no_cache():
    config = transformers.MambaConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, state_size=4,
        eos_token_id=None, pad_token_id=None, bos_token_id=None,
    )  # fmt: skip
    trace = generated(made(lambda: transformers.MambaForCausalLM(config)), *prompts(2, 5))
    with pytest.raises(ValueError, match="Mamba"):
        trace.activations.lens.tokens("backbone.layers.1", trace.output)
