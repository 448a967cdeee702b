"""What each loss computes, in PyTorch, and how its cases are drawn."""

import math

import torch
import torch.nn.functional as F

from draws import Case
from ops import first_maximum, logit_size


def unit_rows(d, *shape):
    x = d.normal(list(shape))
    return F.normalize(x, dim=-1) if d.flag(0.7) else x


def positive_columns(n, step):
    positives = torch.zeros(n, n * step, dtype=torch.bool)
    positives[torch.arange(n), torch.arange(n) * step] = True
    return positives


class Equal:
    """Which targets are no negatives, since they equal a query's positive: by ids of targets, of queries, or of both."""

    def __init__(self, d, n, step=1, queries=True, chance=0.5):
        self.ids = [d.indices([n * step], d.rng.choice([1, 2, 5, 40])) if d.flag(chance) else None,
                    d.indices([n], d.rng.choice([1, 2, 5, 40])) if queries and d.flag(chance / 2) else None]
        self.excluded = torch.zeros(n, n * step, dtype=torch.bool)
        targets, of_queries = self.ids
        if targets is not None:
            self.excluded |= targets[::step][:, None] == targets[None, :]
        if of_queries is not None:
            self.excluded[:, ::step] |= of_queries[:, None] == of_queries[None, :]
        self.excluded &= ~positive_columns(n, step)


def cross_entropy_of_rows(z, step, smoothing=0.0, hardness=0.0, excluded=None):
    n, m = z.shape
    excluded = torch.zeros(n, m, dtype=torch.bool) if excluded is None else excluded
    negatives = ~positive_columns(n, step) & ~excluded
    if hardness and m > 1:
        weighted = z * hardness
        none = ~negatives.any(1, keepdim=True)
        mean = torch.logsumexp(weighted.masked_fill(~(negatives | none), -math.inf), 1, keepdim=True)
        z = torch.where(negatives, z + weighted - mean + negatives.sum(1, keepdim=True).clamp(min=1).to(z.dtype).log(), z)
    log_p = torch.log_softmax(z.masked_fill(excluded, -math.inf), 1)
    loss = -log_p[torch.arange(n), torch.arange(n) * step]
    if smoothing:
        uniform = torch.where(excluded, 0.0, log_p).sum(1) / (~excluded).sum(1)
        loss = (1 - smoothing) * loss - smoothing * uniform
    return loss.mean()


def of_both_directions(z, smoothing=0.0, hardness=0.0, excluded=None):
    return (cross_entropy_of_rows(z, 1, smoothing, hardness, excluded)
            + cross_entropy_of_rows(z.T, 1, smoothing, hardness, excluded)) / 2


def info_nce(tiled):
    def draw(d):
        n, width, step = d.size(1), d.size(1), d.rng.choice([1, 1, 2, 3])
        options = dict(tile_rows=d.size(1), tile_columns=d.size(1)) if tiled else dict(
            label_smoothing=d.rng.choice([0.0, 0.1, 0.5]), hardness=d.rng.choice([0.0, 0.0, 0.5, 2.0]))
        a, b, scale, equal = unit_rows(d, n, width), unit_rows(d, n * step, width), d.scalar(0.1, 60), Equal(d, n, step)
        return Case("info_nce", [a, b, scale, *equal.ids],
                    lambda q, t, s, *ids: cross_entropy_of_rows(s * q @ t.T, step, options.get("label_smoothing", 0.0),
                                                                options.get("hardness", 0.0), equal.excluded),
                    size=logit_size(scale, a, b), **options)

    return draw


def clip_loss(tiled):
    def draw(d):
        n, width = d.size(1), d.size(1)
        options = dict(tile_rows=d.size(1), tile_columns=d.size(1)) if tiled else dict(
            label_smoothing=d.rng.choice([0.0, 0.1, 0.5]), hardness=d.rng.choice([0.0, 0.0, 0.5, 2.0]))

        def reference(a, b, log_scale, *ids):
            logits = log_scale.clamp(max=math.log(100)).exp() * a @ b.T
            return of_both_directions(logits, options.get("label_smoothing", 0.0), options.get("hardness", 0.0),
                                      equal.excluded)

        images, texts, given, equal = unit_rows(d, n, width), unit_rows(d, n, width), d.scalar(-2, 6), Equal(d, n)
        return Case("clip_loss", [images, texts, given, *equal.ids], reference,
                    size=logit_size(min(given.exp(), 100), images, texts), **options)

    return draw


def siglip_loss(tiled):
    def draw(d):
        n, width = d.size(1), d.size(1)
        options = dict(tile_rows=d.size(1), tile_columns=d.size(1)) if tiled else {}

        def reference(a, b, log_scale, bias, *ids):
            logits = log_scale.exp() * a @ b.T + bias
            terms = F.logsigmoid(logits * (2 * torch.eye(n, dtype=a.dtype) - 1))
            return -torch.where(equal.excluded, 0.0, terms).sum() / n

        equal = Equal(d, n)
        return Case("siglip_loss",
                    [unit_rows(d, n, width), unit_rows(d, n, width), d.scalar(-2, 4), d.scalar(-20, 2), *equal.ids],
                    reference, **options)

    return draw


def nt_xent(d):
    n, width = d.size(1), d.size(1)

    def reference(a, b, s, *ids):
        x = F.normalize(torch.cat([a, b]), dim=-1)
        without = torch.eye(2 * n, dtype=torch.bool) | equal.excluded.repeat(2, 2)
        return F.cross_entropy((s * x @ x.T).masked_fill(without, -math.inf), (torch.arange(2 * n) + n) % (2 * n))

    a, b, scale, equal = d.normal([n, width]), d.normal([n, width]), d.scalar(0.1, 20), Equal(d, n)
    return Case("nt_xent", [a, b, scale, *equal.ids], reference, size=2 * float(scale))


def gist_loss(d):
    """The guide decides alike however it rounds: no similarity is near to what it is compared with."""
    n, width, step, guide_width = d.size(1), d.size(1), d.rng.choice([1, 1, 2, 3]), d.rng.choice([4, 9])
    margin, relative, equal = d.rng.choice([0.0, 0.1, -0.2]), d.flag(), Equal(d, n, step, chance=0.3)
    while True:
        of_queries, of_targets = d.normal([n, guide_width]), d.normal([n * step, guide_width])
        u, v = F.normalize(of_queries.double(), dim=-1), F.normalize(of_targets.double(), dim=-1)
        positive = (u * v[::step]).sum(1, keepdim=True)
        nearest = positive - (margin * positive.abs() if relative else margin)
        parts = [u @ v.T, u @ u.T, v[::step] @ v[::step].T]
        own = [positive_columns(n, step), torch.eye(n, dtype=torch.bool), torch.eye(n, dtype=torch.bool)]
        if all(((p - nearest).abs() > 1e-5)[~o].all() for p, o in zip(parts, own)):
            break
    without = [(p > nearest) & ~own[0] | equal.excluded if i == 0 else (p > nearest) | own[i] | equal.excluded[:, ::step]
               for i, p in enumerate(parts)]

    def reference(queries, targets, s, *constants):
        q, t = F.normalize(queries, dim=-1), F.normalize(targets, dim=-1)
        p = t[::step]
        logits = torch.cat([(s * a @ b.T).masked_fill(mask, -math.inf)
                            for a, b, mask in zip([q, q, p], [t, q, p], without)], 1)
        return F.cross_entropy(logits, torch.arange(n) * step)

    scale = d.scalar(0.1, 60)
    return Case("gist_loss", [d.normal([n, width]), d.normal([n * step, width]), scale, *equal.ids, of_queries, of_targets],
                reference, size=2 * float(scale), margin=margin, relative=relative).without_gradients_of(5, 6)


def matryoshka(d):
    n, width = d.size(1), d.size(1)
    widths = [d.rng.randint(1, width) for _ in range(d.rng.randint(1, 3))]
    weights, normalize = [d.rng.choice([1.0, 0.5, 2.0]) for _ in widths], d.flag()

    def reference(q, t, s):
        total = 0
        for w, weight in zip(widths, weights):
            a, b = (F.normalize(x[:, :w], dim=-1) if normalize else x[:, :w] for x in (q, t))
            total = total + weight * cross_entropy_of_rows(s * a @ b.T, 1)
        return total

    q, t, scale = d.normal([n, width]), d.normal([n, width]), d.scalar(0.1, 20)
    return Case("matryoshka", [q, t, scale], reference, size=sum(weights) * logit_size(scale, q, t), widths=widths,
                weights=weights, normalize=normalize)


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

    # Where all of a row's candidates are alike, what is left is rounding, which f64 has too: the right gradient is 0.
    scale = d.scalar(0.1, 20)
    return Case("sup_con", [d.normal([n, width]), scale, labels], reference,
                size=float(scale) if d.dtype == torch.float64 else 0.0)


def scores_of_tokens(q, t, of_queries, of_documents):
    similarities = torch.einsum("itw,jsw->ijts", q, t)
    if of_documents is not None:
        similarities = similarities.masked_fill(~of_documents[None, :, None, :], -math.inf)
    best = first_maximum(similarities, 3)
    return best.sum(2) if of_queries is None else torch.where(of_queries[:, None, :], best, 0.0).sum(2)


def maxsim_scores(d):
    n, m, width = d.rng.choice([1, 2, 5, 9]), d.rng.choice([1, 3, 8]), d.size(1)
    query_tokens, document_tokens = d.rng.choice([1, 3, 8]), d.rng.choice([1, 4, 17])
    masks = [d.padding(n, query_tokens) if d.flag() else None,
             d.padding(m, document_tokens, some=True) if d.flag() else None]
    queries, documents = d.normal([n, query_tokens, width]), d.normal([m, document_tokens, width])
    return Case("maxsim_scores", [queries, documents, *masks], scores_of_tokens)


def maxsim(tiled):
    def draw(d):
        n, step, width = d.rng.choice([1, 2, 5, 9]), d.rng.choice([1, 1, 2]), d.size(1)
        query_tokens, document_tokens = d.rng.choice([1, 3, 8]), d.rng.choice([1, 4, 17])
        options = dict(tile_rows=d.rng.choice([1, 3, 8]), tile_columns=d.rng.choice([1, 4, 8])) if tiled else {}
        masks = [d.padding(n, query_tokens) if d.flag() else None,
                 d.padding(n * step, document_tokens, some=True) if d.flag() else None]

        def reference(q, t, s, of_queries, of_documents, *ids):
            return cross_entropy_of_rows(s * scores_of_tokens(q, t, of_queries, of_documents), step,
                                         excluded=equal.excluded)

        queries, documents = unit_rows(d, n, query_tokens, width), unit_rows(d, n * step, document_tokens, width)
        scale, equal = d.scalar(0.1, 10), Equal(d, n, step)
        return Case("maxsim_loss",
                    [queries, documents, scale, *masks, *equal.ids], reference,
                    size=query_tokens * logit_size(scale, queries, documents), **options)

    return draw


LOSSES = [
    info_nce(False), info_nce(True), clip_loss(False), clip_loss(True), siglip_loss(False), siglip_loss(True), nt_xent,
    sup_con, gist_loss, matryoshka, maxsim_scores, maxsim(False), maxsim(True),
]
