"""Before speed: whether packed documents give the loss that they give alone here, and what a matrix product reaches."""

from __future__ import annotations

import statistics
import time
from typing import Any

from configs.errors import SettingsError
from scripts.bench.gpu.materials import SMOLLM2, GpuBenchSettings, make_blocks, make_model


def check(settings: GpuBenchSettings) -> dict[str, Any]:
    """A packed block's loss against that of its documents one by one, on this device.

    In float32 within 1e-5 relative with sdpa, and in bfloat16 within 2e-2 with the attention that training takes
    here, whose kernels are others; and within half of what it would be if the documents did see each other, which of
    random weights is little.

    Raises:
        SettingsError: they differ, so a measured speed would be that of wrong work.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pretrain.token_blocks.blocks import IGNORED, Collator, TokenBlocks
    from pretrain.training.attention import as_one_row, choose_attention, wants_one_row

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block_size, folder = 512, make_model(settings, SMOLLM2)
    blocks = TokenBlocks(make_blocks(settings, block_size, 0)).split("train")
    segments = next(blocks[i] for i in range(len(blocks)) if len(blocks[i]) > 1)
    collate = Collator(block_size, AutoTokenizer.from_pretrained(folder).pad_token_id)
    found: dict[str, Any] = {}
    half = choose_attention(None, device.type == "cpu", half_precision=True)
    for dtype, attention, bound in ((torch.float32, "sdpa", 1e-5), (torch.bfloat16, half, 2e-2)):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
        model = model.to(device).eval()

        def loss_sum(rows: list, model: Any = model, attention: str = attention) -> float:
            batch = {name: value.to(device) for name, value in collate(rows).items()}
            count = (batch["labels"] != IGNORED).sum()
            batch = as_one_row(batch) if wants_one_row(attention) else batch
            with torch.inference_mode():
                return float(model(**batch, use_cache=False).loss.double() * count)

        packed, alone = loss_sum([segments]), sum(loss_sum([[segment]]) for segment in segments)
        difference = abs(packed - alone) / alone
        bound = min(bound, 0.5 * abs(loss_sum([[as_one_document(segments)]]) - alone) / alone)
        found[f"{attention} {dtype}".replace("torch.", "")] = {"difference": difference, "bound": bound}
        if not difference <= bound:
            raise SettingsError(
                "packed documents do not give the loss that they give alone",
                where=f"attention {attention}, {dtype}, {device}",
                found=f"{packed} against {alone}, relative difference {difference:.1e}",
                wanted=f"at most {bound:.1e}",
                todo="do not train with this attention here; give --attn_implementation sdpa and report it",
            )
    return found


def as_one_document(segments: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """(input_ids, labels) of documents that see each other, the first token of each without a label as when packed."""
    import numpy as np

    from pretrain.token_blocks.blocks import IGNORED

    labels = [np.concatenate([[IGNORED], own[1:]]) for _, own in segments]
    return np.concatenate([ids for ids, _ in segments]), np.concatenate(labels)


def matmul(settings: GpuBenchSettings) -> dict[str, Any]:
    """The rate of a large bfloat16 matrix product, which no training step can pass: median of 20 after 5, TFLOP/s."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = 256 if settings.quick else 16384
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(25):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return {"size": size, "tflops": round(2 * size**3 / statistics.median(times[5:]) / 1e12, 2)}
