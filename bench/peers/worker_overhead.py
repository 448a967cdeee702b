"""Prints in JSON what PyTorch's ops cost on inputs of a few elements, ns a call: worker_overhead.py THREADS TRIALS CALLS.

The ops, inputs and modes are those of bench_overhead.cpp.
"""

import gc
import json
import sys
import time

import torch
import torch.nn.functional as F


def values(*shape, grad=False):
    count = int(torch.tensor(shape).prod()) if shape else 1
    t = (0.01 * (torch.arange(count) % 50) - 0.2).reshape(shape).float()
    return t.requires_grad_(grad)


def attention(qkv):
    batch, tokens, width = qkv.shape
    q, k, v = qkv.view(batch, tokens, 3, 2, width // 6).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width // 3)


def ops_to_time():
    x = values(8, 16)
    weight, bias, gain, table = (values(*s, grad=True) for s in ((16, 16), (16,), (16,), (10, 16)))
    other, right = values(8, 16), values(16, 16)
    targets, tokens = torch.tensor([0, 3, 1, 2, 9, 15, 7, 4]), torch.tensor([0, 3, 1, 2, 9, 5, 7, 4])
    return {
        "add": (x, lambda v: torch.add(v, other)),
        "multiply": (x, lambda v: torch.mul(v, other)),
        "gelu": (x, F.gelu),
        "linear": (x, lambda v: F.linear(v, weight, bias)),
        "matmul": (x, lambda v: torch.matmul(v, right)),
        "layer_norm": (x, lambda v: F.layer_norm(v, (16,), gain, bias)),
        "softmax": (x, lambda v: torch.softmax(v, -1)),
        "l2_normalize": (x, lambda v: F.normalize(v, dim=-1)),
        "dropout": (x, lambda v: F.dropout(v, 0.1)),
        "sum": (x, lambda v: torch.sum(v, -1)),
        "reshape": (x, lambda v: v.reshape(16, 8)),
        "slice": (x, lambda v: v[:, 0:4]),
        "concat": (x, lambda v: torch.cat((v, other), 0)),
        "cross_entropy": (x, lambda v: F.cross_entropy(v, targets)),
        "embedding": (values(), lambda v: F.embedding(tokens, table)),
        "attention": (values(2, 4, 48), attention),
    }


def seconds_of(x, call, mode, calls):
    begin = time.perf_counter()
    if mode == "forward":
        with torch.no_grad():
            for _ in range(calls):
                call(x)
        return time.perf_counter() - begin
    leaf = x.detach().requires_grad_()
    outputs = []
    for _ in range(calls):
        y = call(outputs[-1] if outputs and outputs[-1].shape == leaf.shape else leaf)
        outputs = [y] if y.shape == leaf.shape else [*outputs, y]
    if mode == "recorded":
        return time.perf_counter() - begin
    seeds = [torch.ones(outputs[0].shape)] * len(outputs)
    torch.autograd.backward(outputs, seeds)
    return time.perf_counter() - begin


def main():
    threads, trials, calls = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    gc.disable()
    report = {}
    for name, (x, call) in ops_to_time().items():
        report[name] = {
            mode: 1e9 / calls * min(seconds_of(x, call, mode, calls) for _ in range(trials))
            for mode in ("forward", "recorded", "backward")
        }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
