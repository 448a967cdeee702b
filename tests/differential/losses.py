"""What each loss computes, in PyTorch, and how its cases are drawn."""

import math

import torch
import torch.nn.functional as F

from draws import Case
from ops import first_maximum, logit_size


def unit_rows(d, *shape):
    x = d.normal(list(shape))
    return F.normalize(x, dim=-1) if d.flag(0.7) else x


def cross_entropy_of_rows(z, step, smoothing=0.0, hardness=0.0):
    n, m = z.shape
    positives = torch.zeros(n, m, dtype=torch.bool)
    positives[torch.arange(n), torch.arange(n) * step] = True
    if hardness and m > 1:
        weighted = z * hardness
        mean = torch.logsumexp(weighted.masked_fill(positives, -math.inf), 1, keepdim=True) - math.log(m - 1)
        z = torch.where(positives, z, z + weighted - mean)
    return F.cross_entropy(z, torch.arange(n) * step, label_smoothing=smoothing)


def of_both_directions(z, smoothing=0.0, hardness=0.0):
    return (cross_entropy_of_rows(z, 1, smoothing, hardness) + cross_entropy_of_rows(z.T, 1, smoothing, hardness)) / 2


def info_nce(tiled):
    def draw(d):
        n, width, step = d.size(1), d.size(1), d.rng.choice([1, 1, 2, 3])
        options = dict(tile_rows=d.size(1), tile_columns=d.size(1)) if tiled else dict(
            label_smoothing=d.rng.choice([0.0, 0.1, 0.5]), hardness=d.rng.choice([0.0, 0.0, 0.5, 2.0]))
        a, b, scale = unit_rows(d, n, width), unit_rows(d, n * step, width), d.scalar(0.1, 60)
        return Case("info_nce", [a, b, scale],
                    lambda q, t, s: cross_entropy_of_rows(s * q @ t.T, step, options.get("label_smoothing", 0.0),
                                                          options.get("hardness", 0.0)),
                    size=logit_size(scale, a, b), **options)

    return draw


def clip_loss(tiled):
    def draw(d):
        n, width = d.size(1), d.size(1)
        options = dict(tile_rows=d.size(1), tile_columns=d.size(1)) if tiled else dict(
            label_smoothing=d.rng.choice([0.0, 0.1, 0.5]), hardness=d.rng.choice([0.0, 0.0, 0.5, 2.0]))

        def reference(a, b, log_scale):
            logits = log_scale.clamp(max=math.log(100)).exp() * a @ b.T
            return of_both_directions(logits, options.get("label_smoothing", 0.0), options.get("hardness", 0.0))

        images, texts, given = unit_rows(d, n, width), unit_rows(d, n, width), d.scalar(-2, 6)
        return Case("clip_loss", [images, texts, given], reference,
                    size=logit_size(min(given.exp(), 100), images, texts), **options)

    return draw


def siglip_loss(tiled):
    def draw(d):
        n, width = d.size(1), d.size(1)
        options = dict(tile_rows=d.size(1), tile_columns=d.size(1)) if tiled else {}

        def reference(a, b, log_scale, bias):
            logits = log_scale.exp() * a @ b.T + bias
            return -F.logsigmoid(logits * (2 * torch.eye(n, dtype=a.dtype) - 1)).sum() / n

        return Case("siglip_loss",
                    [unit_rows(d, n, width), unit_rows(d, n, width), d.scalar(-2, 4), d.scalar(-20, 2)], reference,
                    **options)

    return draw


def nt_xent(d):
    n, width = d.size(1), d.size(1)

    def reference(a, b, s):
        x = F.normalize(torch.cat([a, b]), dim=-1)
        logits = (s * x @ x.T).masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
        return F.cross_entropy(logits, (torch.arange(2 * n) + n) % (2 * n))

    a, b, scale = d.normal([n, width]), d.normal([n, width]), d.scalar(0.1, 20)
    return Case("nt_xent", [a, b, scale], reference, size=2 * float(scale))


def sup_con(d):
    n, width = d.size(2), d.size(1)
    labels = d.indices([n], d.rng.choice([1, 2, 5]))
    labels[1] = labels[0]

    def reference(r, s, given):
        x = F.normalize(r, dim=-1)
        itself = torch.eye(n, dtype=torch.bool)
        logits = s * x @ x.T
        positives = (given[:, None] == given[None, :]) & ~itself
        log_p = logits - torch.logsumexp(logits.masked_fill(itself, -math.inf), 1, keepdim=True)
        anchors = positives.any(1)
        of_rows = torch.where(positives, log_p, 0.0).sum(1)[anchors] / positives.sum(1)[anchors]
        return -of_rows.mean()

    return Case("sup_con", [d.normal([n, width]), d.scalar(0.1, 20), labels], reference)


def maxsim(tiled):
    def draw(d):
        n, step, width = d.rng.choice([1, 2, 5, 9]), d.rng.choice([1, 1, 2]), d.size(1)
        query_tokens, document_tokens = d.rng.choice([1, 3, 8]), d.rng.choice([1, 4, 17])
        options = dict(tile_rows=d.rng.choice([1, 3, 8]), tile_columns=d.rng.choice([1, 4, 8])) if tiled else {}
        masks = [d.padding(n, query_tokens) if d.flag() else None,
                 d.padding(n * step, document_tokens, some=True) if d.flag() else None]

        def reference(q, t, s, of_queries, of_documents):
            similarities = torch.einsum("itw,jsw->ijts", q, t)
            if of_documents is not None:
                similarities = similarities.masked_fill(~of_documents[None, :, None, :], -math.inf)
            best = first_maximum(similarities, 3)
            if of_queries is not None:
                best = torch.where(of_queries[:, None, :], best, 0.0)
            return cross_entropy_of_rows(s * best.sum(2), step)

        queries, documents = unit_rows(d, n, query_tokens, width), unit_rows(d, n * step, document_tokens, width)
        scale = d.scalar(0.1, 10)
        return Case("maxsim_loss",
                    [queries, documents, scale, *masks], reference,
                    size=query_tokens * logit_size(scale, queries, documents), **options)

    return draw


LOSSES = [
    info_nce(False), info_nce(True), clip_loss(False), clip_loss(True), siglip_loss(False), siglip_loss(True), nt_xent,
    sup_con, maxsim(False), maxsim(True),
]
