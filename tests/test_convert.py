"""Converted checkpoints compute what the original layers do, from plain implementations of those, and nothing else passes."""

import base64
import io
import json
import math
from types import SimpleNamespace

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear, silu

from configs.errors import MissingInputError, SettingsError
from configs.files import REPOSITORY, read_json
from pretrain.converters import converting
from pretrain.converters.tokenizer_files import PROBES, from_sentencepiece, from_tiktoken, merge_bytes
from pretrain.models import load_model, load_tokenizer

VOCAB, HIDDEN, INNER, LAYERS, HEADS = 2100, 64, 96, 2, 8
HEAD_DIM = HIDDEN // HEADS
COMMON = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
CONFIGS = {
    "internlm": {
        **COMMON,
        "model_type": "internlm",
        "intermediate_size": INNER,
        "hidden_act": "silu",
        "bias": True,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "rotary": {"type": "dynamic", "base": 20000},
    },
    "internlm2": {
        **COMMON,
        "model_type": "internlm2",
        "intermediate_size": INNER,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "bias": False,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-3,
        "rope_theta": 1000000,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
    },
    "qwen": {
        **COMMON,
        "model_type": "qwen",
        "intermediate_size": 2 * INNER,
        "kv_channels": HEAD_DIM,
        "layer_norm_epsilon": 1e-2,
        "max_position_embeddings": 1024,
        "seq_length": 64,
        "no_bias": True,
        "rotary_pct": 1.0,
        "rotary_emb_base": 30000,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "tie_word_embeddings": False,
    },
}


def shapes_of(config):
    """Names and shapes of an original's tensors, as its own class has them."""
    kind, kv = config["model_type"], config.get("num_key_value_heads", HEADS)
    shapes = {}
    for n in range(LAYERS):
        if kind == "internlm":
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                shapes[f"model.layers.{n}.self_attn.{name}.weight"] = (HIDDEN, HIDDEN)
                shapes[f"model.layers.{n}.self_attn.{name}.bias"] = (HIDDEN,)
            shapes[f"model.layers.{n}.self_attn.rotary_emb.inv_freq"] = (HEAD_DIM // 2,)
            shapes[f"model.layers.{n}.mlp.gate_proj.weight"] = (INNER, HIDDEN)
            shapes[f"model.layers.{n}.mlp.up_proj.weight"] = (INNER, HIDDEN)
            shapes[f"model.layers.{n}.mlp.down_proj.weight"] = (HIDDEN, INNER)
            shapes[f"model.layers.{n}.input_layernorm.weight"] = (HIDDEN,)
            shapes[f"model.layers.{n}.post_attention_layernorm.weight"] = (HIDDEN,)
        elif kind == "internlm2":
            shapes[f"model.layers.{n}.attention.wqkv.weight"] = ((HEADS + 2 * kv) * HEAD_DIM, HIDDEN)
            shapes[f"model.layers.{n}.attention.wo.weight"] = (HIDDEN, HIDDEN)
            if config["bias"]:
                shapes[f"model.layers.{n}.attention.wqkv.bias"] = ((HEADS + 2 * kv) * HEAD_DIM,)
                shapes[f"model.layers.{n}.attention.wo.bias"] = (HIDDEN,)
            shapes[f"model.layers.{n}.feed_forward.w1.weight"] = (INNER, HIDDEN)
            shapes[f"model.layers.{n}.feed_forward.w2.weight"] = (HIDDEN, INNER)
            shapes[f"model.layers.{n}.feed_forward.w3.weight"] = (INNER, HIDDEN)
            shapes[f"model.layers.{n}.attention_norm.weight"] = (HIDDEN,)
            shapes[f"model.layers.{n}.ffn_norm.weight"] = (HIDDEN,)
        else:
            shapes[f"transformer.h.{n}.attn.c_attn.weight"] = (3 * HIDDEN, HIDDEN)
            shapes[f"transformer.h.{n}.attn.c_attn.bias"] = (3 * HIDDEN,)
            shapes[f"transformer.h.{n}.attn.c_proj.weight"] = (HIDDEN, HIDDEN)
            shapes[f"transformer.h.{n}.mlp.w1.weight"] = (INNER, HIDDEN)
            shapes[f"transformer.h.{n}.mlp.w2.weight"] = (INNER, HIDDEN)
            shapes[f"transformer.h.{n}.mlp.c_proj.weight"] = (HIDDEN, INNER)
            shapes[f"transformer.h.{n}.ln_1.weight"] = (HIDDEN,)
            shapes[f"transformer.h.{n}.ln_2.weight"] = (HIDDEN,)
    embedding, norm, output = {
        "internlm": ("model.embed_tokens", "model.norm", "lm_head"),
        "internlm2": ("model.tok_embeddings", "model.norm", "output"),
        "qwen": ("transformer.wte", "transformer.ln_f", "lm_head"),
    }[kind]
    head = {f"{embedding}.weight": (VOCAB, HIDDEN), f"{norm}.weight": (HIDDEN,), f"{output}.weight": (VOCAB, HIDDEN)}
    return {**shapes, **head}


def random_weights(config):
    """Weights that make every part matter: norms about 1, attention that is far from uniform."""
    draw = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes_of(config).items():
        scale = 0.3 if len(shape) == 1 else 1 / math.sqrt(shape[1])
        weights[name] = torch.randn(shape, generator=draw) * scale + (len(shape) == 1 and "bias" not in name)
    return weights


def normed(x, weight, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def rotated(x, base):
    """x (T, heads, head_dim): the pairs (i, i + head_dim / 2) turned by position x base^(-2i / head_dim)."""
    half = x.shape[-1] // 2
    angles = torch.arange(len(x))[:, None, None] * base ** (-torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def attended(queries, keys, values, base):
    """Causal attention of one text, (T, heads, head_dim) and (T, kv heads, head_dim), one head after the other."""
    queries, keys = rotated(queries, base), rotated(keys, base)
    group = queries.shape[1] // keys.shape[1]
    mask = torch.full((len(queries), len(queries)), -math.inf).triu(1)
    heads = []
    for head in range(queries.shape[1]):
        scores = queries[:, head] @ keys[:, head // group].T / math.sqrt(queries.shape[-1])
        heads.append((scores + mask).softmax(-1) @ values[:, head // group])
    return torch.cat(heads, -1)


def plain_logits(config, weights, ids):
    """The original's logits (T, vocab), layer by layer as its own code computes them below its trained length."""
    kind, w = config["model_type"], weights
    eps = config.get("rms_norm_eps") or config["layer_norm_epsilon"]
    heads = (len(ids), -1, HEAD_DIM)
    embedding = {"internlm": "model.embed_tokens", "internlm2": "model.tok_embeddings", "qwen": "transformer.wte"}
    x = w[f"{embedding[kind]}.weight"][ids]
    for n in range(LAYERS):
        if kind == "internlm":
            p = f"model.layers.{n}"
            y = normed(x, w[f"{p}.input_layernorm.weight"], eps)
            q, k, v = (
                linear(y, w[f"{p}.self_attn.{name}_proj.weight"], w[f"{p}.self_attn.{name}_proj.bias"])
                for name in "qkv"
            )
            mixed = attended(q.view(heads), k.view(heads), v.view(heads), config["rotary"]["base"])
            x = x + linear(mixed, w[f"{p}.self_attn.o_proj.weight"], w[f"{p}.self_attn.o_proj.bias"])
            y = normed(x, w[f"{p}.post_attention_layernorm.weight"], eps)
            gated = silu(linear(y, w[f"{p}.mlp.gate_proj.weight"])) * linear(y, w[f"{p}.mlp.up_proj.weight"])
            x = x + linear(gated, w[f"{p}.mlp.down_proj.weight"])
        elif kind == "internlm2":
            p, kv = f"model.layers.{n}", config["num_key_value_heads"]
            y = normed(x, w[f"{p}.attention_norm.weight"], eps)
            # Each key-value head's group: its queries, its key, its value.
            packed = linear(y, w[f"{p}.attention.wqkv.weight"], w.get(f"{p}.attention.wqkv.bias"))
            packed = packed.view(len(ids), kv, HEADS // kv + 2, HEAD_DIM)
            queries = packed[:, :, :-2].reshape(heads)
            mixed = attended(queries, packed[:, :, -2], packed[:, :, -1], config["rope_theta"])
            x = x + linear(mixed, w[f"{p}.attention.wo.weight"], w.get(f"{p}.attention.wo.bias"))
            y = normed(x, w[f"{p}.ffn_norm.weight"], eps)
            gated = silu(linear(y, w[f"{p}.feed_forward.w1.weight"])) * linear(y, w[f"{p}.feed_forward.w3.weight"])
            x = x + linear(gated, w[f"{p}.feed_forward.w2.weight"])
        else:
            p = f"transformer.h.{n}"
            y = normed(x, w[f"{p}.ln_1.weight"], eps)
            packed = linear(y, w[f"{p}.attn.c_attn.weight"], w[f"{p}.attn.c_attn.bias"])
            mixed = attended(*(part.view(heads) for part in packed.split(HIDDEN, -1)), config["rotary_emb_base"])
            x = x + linear(mixed, w[f"{p}.attn.c_proj.weight"])
            y = normed(x, w[f"{p}.ln_2.weight"], eps)
            gated = linear(y, w[f"{p}.mlp.w1.weight"]) * silu(linear(y, w[f"{p}.mlp.w2.weight"]))
            x = x + linear(gated, w[f"{p}.mlp.c_proj.weight"])
    norm = "transformer.ln_f" if kind == "qwen" else "model.norm"
    return linear(normed(x, w[f"{norm}.weight"], eps), w["output.weight" if kind == "internlm2" else "lm_head.weight"])


def sample_texts():
    """Documents of the sample, two a language."""
    paths = sorted((REPOSITORY / "assets" / "sample" / "documents").glob("*.medical.jsonl"))
    return [json.loads(line)["text"] for path in paths for line in path.read_text("utf-8").splitlines()[:2]]


def sentencepiece_model(**settings):
    """Bytes of a BPE model trained on the sample."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text[:3000] for text in sample_texts()),
        model_writer=written,
        model_type="bpe",
        vocab_size=2000,
        byte_fallback=True,
        character_coverage=0.98,
        minloglevel=2,
        **settings,
    )
    return written.getvalue()


@pytest.fixture(scope="session")
def internlm_tokenizer():
    return sentencepiece_model(normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True)


@pytest.fixture(scope="session")
def byte_level():
    """A byte-level tokenizer trained on the sample with Qwen's word pattern, and its tokens as a .tiktoken file."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    from pretrain.converters.tokenizer_files import _QWEN_PATTERN, bytes_to_letters

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(_QWEN_PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(sample_texts(), trainer)
    byte = {letter: number for number, letter in bytes_to_letters().items()}
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    lines = [base64.b64encode(bytes(byte[letter] for letter in token)) + f" {rank}".encode() for token, rank in vocab]
    return tokenizer, b"\n".join(lines)


@pytest.fixture
def make_original(tmp_path, internlm_tokenizer, byte_level):
    """Writes a random checkpoint in an original's format: two files of weights, a configuration, a tokenizer."""

    def make(kind, weights=None, **changes):
        config = {**CONFIGS[kind], **changes}
        weights = random_weights({**config, "model_type": kind}) if weights is None else weights
        folder = tmp_path / kind
        folder.mkdir(exist_ok=True)
        names = sorted(weights)
        files = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
        for file, part in files.items():
            save_file({name: weights[name].contiguous() for name in part}, folder / file)
        weight_map = {name: file for file, part in files.items() for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        name, content = ("qwen.tiktoken", byte_level[1]) if kind == "qwen" else ("tokenizer.model", internlm_tokenizer)
        (folder / name).write_bytes(content)
        return SimpleNamespace(input=folder, output_dir=tmp_path / "out", allow_pickle=False), config, weights

    return make


def convert(settings):
    # The settings are a dataclass in convert.py, an entry script.
    from pretrain.convert import ConvertSettings

    converting.convert(ConvertSettings(**vars(settings)))


def check_logits(folder, config, weights, length=60):
    ids = torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = load_model(str(folder), torch.float32)(ids[None]).logits[0]
    wanted = plain_logits(config, weights, ids)
    assert wanted.std() > 0.5  # or everything would be within 1e-5
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("internlm", {}), ("internlm2", {}), ("internlm2", {"bias": True, "rope_scaling": None}), ("qwen", {})],
    ids=["internlm", "internlm2", "internlm2 with biases", "qwen"],
)
def test_converted_models_give_the_originals_logits(make_original, monkeypatch, kind, changes):
    monkeypatch.setattr(converting, "MAX_SHARD_BYTES", 200_000)
    settings, config, weights = make_original(kind, **changes)
    convert(settings)
    shards = sorted(settings.output_dir.glob("*.safetensors"))
    assert len(shards) > 3 and sum(path.stat().st_size for path in shards) > 4 * VOCAB * HIDDEN
    assert all(path.stat().st_size < 200_000 or len(load_file(path)) == 1 for path in shards)
    check_logits(settings.output_dir, config, weights)
    result = read_json(settings.output_dir / "config.json")
    theta = {"internlm": 20000, "internlm2": 1000000, "qwen": 30000}[kind]
    assert result["rope_theta"] == result["rope_parameters"]["rope_theta"] == theta
    assert result["max_position_embeddings"] == {"internlm": 128, "internlm2": 256, "qwen": 64}[kind]
    tokenizer = load_tokenizer(str(settings.output_dir))
    tokenizer_class = read_json(settings.output_dir / "tokenizer_config.json")["tokenizer_class"]
    assert tokenizer_class == "PreTrainedTokenizerFast"  # which transformers 4 knows too
    assert result["eos_token_id"] == tokenizer.eos_token_id is not None
    assert tokenizer("fever").input_ids[0] == (
        tokenizer.bos_token_id if kind != "qwen" else tokenizer("f").input_ids[0]
    )
    assert read_json(settings.output_dir / "run.json")["status"] == "finished"


def test_an_interrupted_conversion_goes_on_and_changes_nothing_that_is_there(make_original, monkeypatch):
    monkeypatch.setattr(converting, "MAX_SHARD_BYTES", 200_000)
    settings, config, weights = make_original("internlm2")
    real, calls = converting._converted, []

    def dies_at_the_third(shard, parts):
        calls.append(shard)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(shard, parts)

    monkeypatch.setattr(converting, "_converted", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        convert(settings)
    assert not (settings.output_dir / "config.json").exists()  # no model yet for whoever looks
    first = {path: path.stat().st_mtime_ns for path in settings.output_dir.glob("*.safetensors")}
    assert len(first) == 2
    (settings.output_dir / ".model-00003-of-00009.safetensors.abc.tmp").touch()  # what SIGKILL leaves
    convert(settings)
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())
    assert not [path for path in settings.output_dir.iterdir() if path.name.startswith(".")]
    check_logits(settings.output_dir, config, weights)
    done = (settings.output_dir / "config.json").stat().st_mtime_ns
    convert(settings)
    assert (settings.output_dir / "config.json").stat().st_mtime_ns == done
    (settings.input / "config.json").touch()
    with pytest.raises(SettingsError, match="other settings or other input"):
        convert(settings)


def test_pickles_are_read_only_when_allowed_and_hold_no_code(make_original, tmp_path):
    settings, config, weights = make_original("internlm")
    for path in settings.input.glob("model*"):
        path.unlink()
    torch.save(weights, settings.input / "pytorch_model.bin")
    with pytest.raises(SettingsError, match="pickles"):
        convert(settings)
    settings.allow_pickle = True
    convert(settings)
    check_logits(settings.output_dir, config, weights)
    torch.save({"x": SimpleNamespace()}, settings.input / "pytorch_model.bin")
    settings.output_dir = tmp_path / "again"
    with pytest.raises(MissingInputError, match="cannot be read"):
        convert(settings)


def without(name):
    return lambda weights: weights.pop(name)


def transposed(name):
    return lambda weights: weights.__setitem__(name, weights[name].T.contiguous())


@pytest.mark.parametrize(
    ("kind", "changes", "damage", "said"),
    [
        ("internlm2", {"model_type": "llama"}, None, "model_type llama"),
        ("internlm2", {"rope_theta": None}, None, "no rope_theta"),
        ("internlm2", {"rope_scaling": {"type": "yarn", "factor": 4}}, None, "type yarn"),
        ("internlm2", {"hidden_act": "gelu"}, None, "hidden_act gelu"),
        (
            "internlm2",
            {},
            lambda w: w.update({n: w[n][:64] for n in w if "wqkv" in n}),
            r"wqkv.weight is torch.float32 \(64, 64\), wanted floats \(96, 64\)",
        ),
        ("internlm2", {"bias": True}, lambda w: [w.pop(n) for n in list(w) if "wo.bias" in n], "wo.bias is missing"),
        ("internlm", {}, transposed("model.layers.1.mlp.down_proj.weight"), "layers.1.mlp.down_proj.weight is"),
        ("internlm", {"rotary": {"type": "linear"}}, None, "type linear"),
        ("qwen", {}, without("transformer.h.1.attn.c_attn.bias"), "h.1.attn.c_attn.bias is missing"),
        ("qwen", {}, lambda w: w.__setitem__("transformer.h.0.extra", torch.zeros(1)), "h.0.extra is unknown"),
        ("qwen", {}, lambda w: w.__setitem__("lm_head.weight", w["lm_head.weight"].char()), "torch.int8"),
        ("qwen", {}, lambda w: w.__setitem__("lm_head.weight", w["lm_head.weight"].half()), "types differ"),
        ("qwen", {"no_bias": False}, None, "no_bias False"),
        ("qwen", {"rotary_pct": 0.25}, None, "rotary_pct 0.25"),
        ("qwen", {"kv_channels": 4}, None, "kv_channels 4"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_such_a_checkpoint_is_refused_before_anything_is_written(
    make_original, kind, changes, damage, said
):
    settings, _, weights = make_original(kind, **changes)
    if damage:
        damage(weights)
        make_original(kind, weights, **changes)
    with pytest.raises(SettingsError, match=said) as refused:
        convert(settings)
    assert refused.value.todo and refused.value.where
    assert not settings.output_dir.exists()


def test_missing_and_cut_files_are_named(make_original):
    settings, _, _ = make_original("internlm2")
    path = settings.input / "model-00002-of-00002.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(MissingInputError, match="model-00002-of-00002"):
        convert(settings)
    path.unlink()
    with pytest.raises(MissingInputError, match="model-00002-of-00002"):
        convert(settings)
    path.write_bytes(content)
    (settings.input / "tokenizer.model").unlink()
    with pytest.raises(MissingInputError, match=r"tokenizer\.model"):
        convert(settings)


def test_weights_of_others_are_not_taken_for_ones_own(make_original):
    settings, _, _ = make_original("internlm2")
    settings.output_dir = settings.input
    with pytest.raises(SettingsError, match="did not write"):
        convert(settings)


@pytest.mark.parametrize(
    "rules",
    [
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "split_digits": True},
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False},
        {"normalization_rule_name": "nmt_nfkc"},
    ],
    ids=["as Llama's", "without a leading space", "normalized"],
)
def test_a_sentencepiece_tokenizer_gives_the_same_ids(tmp_path, rules):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model(**rules, control_symbols=["<unused>"]))
    renamed = {"3": {"content": "<|im_start|>", "special": True}, "2000": {"content": "<|more|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": renamed}))
    original = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert original.id_to_piece(3) == "<unused>" and len(original) == 2000
    tokenizer = from_sentencepiece(path)
    for text in [*sample_texts(), *PROBES]:
        ids = original.encode(text)
        assert tokenizer(text).input_ids == [original.bos_id(), *ids]
        assert tokenizer.decode(ids) == original.decode(ids)
    assert tokenizer("<|im_start|>", add_special_tokens=False).input_ids[-1] == 3
    assert tokenizer("<|more|>", add_special_tokens=False).input_ids[-1] == 2000


def test_another_sentencepiece_model_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sample_texts()),
        model_writer=written,
        model_type="unigram",
        vocab_size=1500,
        minloglevel=2,
    )
    path.write_bytes(written.getvalue())
    with pytest.raises(SettingsError, match="UNIGRAM"):
        from_sentencepiece(path)
    path.write_bytes(b"not a model")
    with pytest.raises(SettingsError, match="cannot be converted"):
        from_sentencepiece(path)


def test_a_tiktoken_tokenizer_gives_the_same_ids(tmp_path, byte_level):
    original, content = byte_level
    path = tmp_path / "qwen.tiktoken"
    path.write_bytes(content)
    tokenizer = from_tiktoken(path)
    for text in [*sample_texts(), *PROBES]:
        ids = original.encode(text).ids
        assert tokenizer(text).input_ids == ids
    assert tokenizer.decode(tokenizer(PROBES[1]).input_ids) == PROBES[1]
    size = original.get_vocab_size()
    assert tokenizer("<|endoftext|><|im_start|><|im_end|><|extra_0|>").input_ids == [*range(size, size + 4)]
    assert len(tokenizer) == size + 208 and tokenizer.eos_token_id == size
    for damaged, said in (
        (content + b"\nnot base64 9", "base64"),
        (content.rsplit(b"\n", 2)[0] + b"\nYWI= 900", "gap"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(SettingsError, match=said):
            from_tiktoken(path)


def test_bytes_are_merged_by_rank_and_from_the_left():
    tokens = [b"a", b"b", b"c", b"ab", b"bc", b"aa", b"abc"]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    assert merge_bytes(b"abc", ranks) == [b"abc"]
    assert merge_bytes(b"abc", ranks, below=ranks[b"abc"]) == [b"ab", b"c"]
    assert merge_bytes(b"bcbc", ranks) == [b"bc", b"bc"]
    assert merge_bytes(b"aaa", ranks) == [b"aa", b"a"]
    assert merge_bytes(b"", ranks) == []
