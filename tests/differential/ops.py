"""What each op computes, in PyTorch, and how its cases are drawn."""

import math

import torch
import torch.nn.functional as F

from draws import Case

ACTIVATIONS = [
    lambda x: x * torch.sigmoid(1.702 * x),
    lambda x: x * (0.5 * torch.special.erfc(x * -math.sqrt(0.5))),  # F.gelu's too
    lambda x: x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),  # F.gelu's cancels for negative x
    F.silu,
    F.relu,
]


# --- elementwise -------------------------------------------------------------------------------------------------------


def broadcast_shapes(d):
    shape = d.shape(0, 4)
    other = [1 if d.flag(0.3) else n for n in shape]
    other = other[d.rng.randint(0, len(other)) if d.flag(0.3) else 0:]
    first = [1 if d.flag(0.2) else n for n in shape]
    return (first, other) if d.flag() else (other, first)


def binary(name, f):
    def draw(d):
        a, b = broadcast_shapes(d)
        return Case(name, [d.values(a), d.values(b)], f, mixing=False)

    return draw


def unary(name, f):
    return lambda d: Case(name, [d.values(d.shape())], f, mixing=False)


def activation(name, f):
    """Digits of its derivative cancel somewhere: in f64 those of PyTorch's too."""
    return lambda d: Case(name, [d.values(d.shape())], f, mixing=False, size=0.25 if d.dtype == torch.float64 else 0.0)


def scale(d):
    factor = d.rng.choice([0.0, 1.0, -2.5, 1e-3, 1e10])
    return Case("scale", [d.values(d.shape())], lambda x: x * factor, mixing=False, factor=factor)


def power(d):
    exponent = d.rng.choice([0.0, 1.0, 2.0, 3.0, -1.0, -2.0, 0.5, 1.5, -0.5, 0.3])
    # PyTorch has roots for these two, which differ from pow at -0.
    root = abs(exponent) == 0.5
    return Case("pow", [d.values(d.shape())], lambda x: torch.pow(x + 0.0 if root else x, exponent), mixing=False,
                exponent=exponent)


def clamp(d):
    most = torch.finfo(torch.float32).max
    low, high = d.rng.choice([-most, -1.0, 0.0, -2.0]), d.rng.choice([most, 1.0, 0.0, 2.0])
    if low > high:
        low, high = high, low
    return Case("clamp", [d.values(d.shape())], lambda x: torch.clamp(x, low, high), mixing=False, low=low, high=high)


# --- reductions --------------------------------------------------------------------------------------------------------


def first_maximum(x, axis):
    """The first of several; a NaN counts as larger than any number."""
    ranks = torch.where(torch.isnan(x), math.inf, x)
    best = torch.where(torch.isnan(x).any(axis, keepdim=True), torch.isnan(x), ranks == ranks.max(axis, keepdim=True).values)
    return x.gather(axis, best.to(torch.uint8).argmax(axis, keepdim=True)).squeeze(axis)


def reduction(name, f, least_size=1):
    def draw(d):
        shape = d.shape(1, 4)
        axis = d.rng.randrange(len(shape))
        shape[axis] = d.rng.choice([d.size(least_size), d.size(least_size), 700])
        if math.prod(shape) > 100000:
            shape = [700 if i == axis else min(n, 3) for i, n in enumerate(shape)]
        given = axis - len(shape) if d.flag() else axis
        return Case(name, [d.values(shape)], lambda x: f(x, axis), axis=given)

    return draw


def euclidean_norm(x, axis):
    return torch.linalg.vector_norm(x, dim=axis)


def logit_size(scale, a, b):
    """The largest that logits of rows a and b can be, to which rounding in a loss is relative."""
    return float(scale) * (1 + float(a.double().norm(dim=-1).max() * b.double().norm(dim=-1).max()))


def distance(d):
    a, b = broadcast_shapes(d)
    if not a or not b:
        a, b = [3, 4], [4]
    x, y = d.values(a), d.values(b)
    if d.flag(0.3) and a == b:
        y = x.clone()
    return Case("distance", [x, y], lambda u, v: euclidean_norm(u - v, -1), axis=-1)


def whole(name, f):
    return lambda d: Case(name, [d.values(d.shape(0, 4, 1 if name == "mean_all" else 0))], f)


# --- rows --------------------------------------------------------------------------------------------------------------


def rows(d):
    shape = d.shape(1, 4)
    shape[-1] = max(1, d.rng.choice([shape[-1], 1, 64, 200, 513]))
    return shape


def row_wise(name, f):
    return lambda d: Case(name, [d.values(rows(d))], f)


def masked_softmax(d):
    shape = rows(d)
    mask = d.mask([1 if d.flag(0.3) else n for n in shape][d.rng.randint(0, len(shape) - 1) if d.flag(0.3) else 0:])

    def reference(x, allowed):
        allowed = allowed.expand(x.shape)
        # Rows of nothing, or of -Inf alone, are 0.
        dead = ~(allowed & (x != -math.inf)).any(-1, keepdim=True)
        y = torch.softmax(torch.where(dead, 0.0, torch.where(allowed, x, -math.inf)), -1)
        return torch.where(dead | ~allowed, 0.0, y)

    return Case("masked_softmax", [d.values(shape).nan_to_num(0, 50), mask], reference)


def cross_entropy(d):
    reduction = d.rng.randrange(3)
    n, classes = d.size(1 if reduction == 1 else 0), d.rng.choice([1, 2, 5, 64, 300])
    kinds = ["none", "mean", "sum"]
    return Case("cross_entropy", [d.values([n, classes]), d.indices([n], classes)],
                lambda x, t: F.cross_entropy(x, t.long(), reduction=kinds[reduction]), reduction=reduction,
                size=1.0 if d.dtype == torch.float64 else 0.0)  # of p - 1, which PyTorch rounds in f64 as well


def normalized(x, axes, epsilon):
    """From differences to a mean that is made good once: in f64 PyTorch's own norms lose more than what is compared."""
    centred = x - x.mean(axes, keepdim=True)
    centred = centred - centred.mean(axes, keepdim=True)
    return centred / ((centred**2).mean(axes, keepdim=True) + epsilon).sqrt()


def norm_of_rows(x, weight, bias, epsilon, own=False):
    if x.dtype == torch.float64 and not own:
        return normalized(x, -1, epsilon) * weight + bias
    return F.layer_norm(x, x.shape[-1:], weight, bias, epsilon)


def norm_of_channels(x, weight, bias, epsilon, own=False):
    if x.dtype == torch.float64 and not own:
        of_channels = [1, -1] + [1] * (x.dim() - 2)
        axes = [i for i in range(x.dim()) if i != 1]
        return normalized(x, axes, epsilon) * weight.reshape(of_channels) + bias.reshape(of_channels)
    return F.batch_norm(x, None, None, weight, bias, True, 0.1, epsilon)


def layer_norm(d):
    shape = rows(d)
    epsilon = d.rng.choice([1e-5, 1e-12, 1e-6, 0.5])
    residual = d.spread(shape) if d.flag(0.4) else None

    def norm(own):
        return lambda x, weight, bias, r: norm_of_rows(x if r is None else x + r, weight, bias, epsilon, own)

    return Case("layer_norm", [d.spread(shape), d.tame(shape[-1:]), d.tame(shape[-1:]), residual], norm(False),
                peer=norm(True), epsilon=epsilon)


def rms_norm(d):
    shape = rows(d)
    shape[-1] += 1  # of a row of one element the gradient is what is left of 1 - 1
    epsilon = d.rng.choice([1e-6, 1e-5, 0.5])
    return Case("rms_norm", [d.spread(shape), d.tame(shape[-1:])], lambda x, w: F.rms_norm(x, x.shape[-1:], w, epsilon),
                epsilon=epsilon)


def l2_normalize(d):
    epsilon = d.rng.choice([1e-12, 1e-6, 1.0])
    return Case("l2_normalize", [d.values(rows(d))], lambda x: F.normalize(x, dim=-1, eps=epsilon), epsilon=epsilon)


def batch_norm(d):
    shape = d.shape(2, 4, 1)
    shape[0] += 1
    epsilon = d.rng.choice([1e-5, 1e-3])
    parameters = [d.tame([shape[1]]), d.tame([shape[1]])]
    # Where a variance does not fit f32, channels are normalised to 0 here, and to 0 or NaN by PyTorch.
    x = d.spread(shape)
    x = torch.where(x.isfinite(), x.clamp(-1e16, 1e16), x)
    return Case("batch_norm", [x, *parameters],
                lambda x, w, b: norm_of_channels(x, w, b, epsilon),
                peer=lambda x, w, b: norm_of_channels(x, w, b, epsilon, own=True), epsilon=epsilon)


def frozen_batch_norm(d):
    shape = d.shape(2, 4)
    shape[1] = max(1, shape[1])
    epsilon = d.rng.choice([1e-5, 1e-3])
    of_channels = [d.tame([shape[1]]) for _ in range(3)] + [d.normal([shape[1]]).abs()]
    return Case("frozen_batch_norm", [d.values(shape), *of_channels],
                lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, False, 0.1, epsilon),
                epsilon=epsilon).without_gradients_of(3, 4)


# --- products ----------------------------------------------------------------------------------------------------------


def operand(d):
    """How products draw their values, and the type that they take them in."""
    if d.dtype == torch.float32 and d.flag(0.4):
        autocast = d.rng.choice(["bfloat16", "float16"])
        low = getattr(torch, autocast)
        return lambda shape: d.normal(shape).to(low).float(), autocast
    kind = d.rng.choice(["normal", "normal", "integers", "constant", "tiny", "offset", "special"])
    # Where a product of two overflows, the order of sums decides what becomes of it.
    return lambda shape: d.values(shape, kind).clamp(-1e15, 1e15), "float32"


def result(d, autocast):
    """Whether a product leaves what it is made of, which is of 16 bits where autocast has it so."""
    return autocast != "float32" and d.flag(0.3)


def matmul(d):
    values, autocast = operand(d)
    m, k, n = d.size(), d.size(), d.size()
    batch = [d.rng.choice([1, 2, 3]) for _ in range(d.rng.randint(0, 2))]
    ta, tb = d.flag(), d.flag()
    a, b = [k, m] if ta else [m, k], [n, k] if tb else [k, n]
    with_a, with_b = d.rng.choice([(True, True), (True, False), (False, True)])

    def reference(x, y):
        return torch.matmul(x.transpose(-1, -2) if ta else x, y.transpose(-1, -2) if tb else y)

    return Case("matmul", [values((batch if with_a else []) + a), values((batch if with_b else []) + b)], reference,
                autocast=autocast, transpose_a=ta, transpose_b=tb)


def tokens_shape(d):
    return d.rng.choice([[], [d.size()], [d.size(), d.rng.choice([1, 3])]])


def linear(d):
    values, autocast = operand(d)
    lead, width, out = tokens_shape(d), d.size(1), d.size(1)
    bias, residual = values([out]) if d.flag() else None, values(lead + [out]) if d.flag(0.3) else None
    return Case("linear", [values(lead + [width]), values([out, width]), bias, residual],
                lambda x, w, b, r: F.linear(x, w, b) + (0 if r is None else r), autocast=autocast,
                operand=residual is None and result(d, autocast))


def activated_linear(d):
    values, autocast = operand(d)
    lead, width, out = tokens_shape(d), d.size(1), d.size(1)
    activation = d.rng.randrange(len(ACTIVATIONS))
    bias, residual = values([out]) if d.flag() else None, values(lead + [out]) if d.flag(0.3) else None
    return Case("activated_linear", [values(lead + [width]), values([out, width]), bias, residual],
                lambda x, w, b, r: F.linear(ACTIVATIONS[activation](x), w, b) + (0 if r is None else r),
                autocast=autocast, activation=activation)


def multi_linear(d):
    values, autocast = operand(d)
    lead, width, outs = tokens_shape(d), d.size(1), [d.size(1), d.size(1)]
    biases = [values([n]) if d.flag() else None for n in outs]
    return Case("multi_linear", [values(lead + [width]), *[values([n, width]) for n in outs], *biases],
                lambda x, v, w, b, c: torch.cat([F.linear(x, v, b), F.linear(x, w, c)], -1), autocast=autocast,
                operand=result(d, autocast))


def normalized_linear(d):
    values, autocast = operand(d)
    lead, width, out = tokens_shape(d), d.size(2), d.size(1)
    bias = values([out]) if d.flag() else None

    def norm(own):
        return lambda x, g, c, w, b: F.linear(norm_of_rows(x, g, c, 1e-5, own), w, b)

    return Case("normalized_linear",
                [values(lead + [width]), d.normal([width]), d.normal([width]), values([out, width]), bias],
                norm(False), peer=norm(True), autocast=autocast, epsilon=1e-5, operand=result(d, autocast))


def attention(d):
    values, autocast = operand(d)
    if autocast == "float32":
        kind = d.rng.choice(["normal", "integers", "constant", "tiny", "offset"])
        values = lambda shape: d.values(shape, kind)
    batch, tokens, width = d.size(), d.size(), d.rng.choice([1, 4, 8, 16, 32, 64, 33])
    heads, kv_heads = d.rng.choice([(1, 1), (2, 2), (3, 3), (2, 1), (4, 2), (6, 2)])
    window = d.rng.choice([None, None, 0, 1, 5, 40])
    causal, valid = d.flag(), d.padding(batch, tokens) if d.flag() and tokens else None

    def reference(qkv, mask):
        parts = qkv.reshape(batch, tokens, heads + 2 * kv_heads, width).transpose(1, 2).split([heads, kv_heads, kv_heads], 1)
        q, k, v = parts[0], *[part.repeat_interleave(heads // kv_heads, 1) for part in parts[1:]]
        allowed = torch.ones(batch, 1, tokens, tokens, dtype=torch.bool)
        if window is not None:
            places = torch.arange(tokens)
            allowed = allowed & ((places[:, None] - places).abs() <= window)
        if causal:
            allowed = allowed.tril()
        if mask is not None:
            allowed = allowed & mask[:, None, None, :]
        dead = ~allowed.any(-1, keepdim=True)
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(width)
        weights = torch.softmax(scores.masked_fill(~(allowed | dead), -math.inf), -1).masked_fill(dead, 0)
        return (weights @ v).transpose(1, 2).reshape(batch, tokens, heads * width)

    qkv = values([batch, tokens, (heads + 2 * kv_heads) * width])
    # Of gradients: dP - Σ dY Y cancels, and meets keys.
    size = 4 * width * float(qkv.abs().max()) ** 2 if qkv.numel() else 0.0
    return Case("attention", [qkv, valid], reference, autocast=autocast, size=size, heads=heads, causal=causal,
                kv_heads=kv_heads, window=-1 if window is None else window, operand=result(d, autocast))


def biased_attention(d):
    """With what relative positions add to scores."""
    kind = d.rng.choice(["normal", "integers", "constant", "tiny", "offset"])
    batch, tokens, width, heads = d.size(), d.size(1), d.rng.choice([1, 4, 8, 33]), d.rng.choice([1, 2, 3])
    valid = d.padding(batch, tokens) if d.flag() else None

    def reference(qkv, bias, mask):
        q, k, v = qkv.reshape(batch, tokens, 3, heads, width).permute(2, 0, 3, 1, 4)
        allowed = torch.ones(batch, 1, tokens, tokens, dtype=torch.bool)
        if mask is not None:
            allowed = allowed & mask[:, None, None, :]
        dead = ~allowed.any(-1, keepdim=True)
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(width) + bias
        weights = torch.softmax(scores.masked_fill(~(allowed | dead), -math.inf), -1).masked_fill(dead, 0)
        return (weights @ v).transpose(1, 2).reshape(batch, tokens, heads * width)

    qkv = d.values([batch, tokens, 3 * heads * width], kind)
    size = 4 * width * float(qkv.abs().max()) ** 2 if qkv.numel() else 0.0
    return Case("biased_attention", [qkv, d.normal([heads, tokens, tokens], d.rng.choice([0.1, 3.0])), valid], reference,
                size=size, heads=heads)


def rope(d):
    batch, tokens, heads, others, half = d.size(), d.size(1), d.size(1), d.rng.choice([0, 1, 2]), d.rng.choice([1, 3, 8, 32])
    frequencies = 1.0 / 10000.0 ** (torch.arange(half) / half)

    def reference(x):
        angles = (torch.arange(tokens).float()[:, None] * frequencies.float()).double()
        cosine, sine = angles.cos().to(x.dtype)[:, None], angles.sin().to(x.dtype)[:, None]
        by_head = x.reshape(batch, tokens, heads + others, 2 * half)
        rotated, rest = by_head.split([heads, others], 2)
        a, b = rotated[..., :half], rotated[..., half:]
        turned = torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)
        return torch.cat([turned, rest], 2).reshape(x.shape)
    return Case("rope", [d.spread([batch, tokens, (heads + others) * 2 * half])], reference, heads=heads,
                frequencies=frequencies.tolist())


def rope_table(d):
    """Of the type of an input that is used for nothing else."""
    half, positions = d.rng.choice([1, 3, 8, 32]), d.size(1)
    frequencies = 1.0 / d.rng.choice([1e2, 1e4, 1.6e5, 1e6]) ** (torch.arange(half) / half)

    def reference(like):
        angles = (torch.arange(positions).float()[:, None] * frequencies.float()).double()
        return torch.cat([angles.cos(), angles.sin()], -1).to(like.dtype)
    return Case("rope_table", [d.normal([1])], reference, mixing=False, frequencies=frequencies.double().tolist(),
                positions=positions).without_gradients_of(0)


def gated(d):
    activation = d.rng.randrange(len(ACTIVATIONS))

    def reference(x):
        a, b = x.chunk(2, -1)
        return ACTIVATIONS[activation](a) * b
    return Case("gated", [d.tame(tokens_shape(d) + [2 * d.size(1)])], reference, activation=activation)


def patch_embedding(d):
    values, autocast = operand(d)
    patch, channels, out = d.rng.choice([1, 2, 4]), d.rng.choice([1, 3]), d.size(1)
    images = values([d.rng.choice([1, 2, 3]), channels, patch * d.rng.choice([1, 2, 4]), patch * d.rng.choice([1, 3])])
    bias = values([out]) if d.flag() else None
    return Case("patch_embedding", [images, values([out, channels, patch, patch]), bias],
                lambda x, w, b: F.conv2d(x, w, b, stride=patch).flatten(2).transpose(1, 2), autocast=autocast)


# --- layout, rows and tokens -------------------------------------------------------------------------------------------


def embedding(d):
    entries, width = d.size(1), d.size(1)
    return Case("embedding", [d.values([entries, width]), d.indices(d.shape(0, 3), entries)],
                lambda table, ids: table[ids.long()])


def gather_rows(d):
    shape = d.shape(1, 3, 1)
    return Case("gather_rows", [d.values(shape), d.indices([d.size()], shape[0])], lambda x, i: x[i.long()])


def reshape(d):
    return Case("reshape", [d.values(d.shape(0, 4, 1))], lambda x: x.reshape(-1), mixing=False)


def concat(d):
    shape = d.shape(1, 4)
    axis = d.rng.randrange(len(shape))
    parts = [d.values([d.size() if i == axis else n for i, n in enumerate(shape)]) for _ in range(d.rng.randint(1, 4))]
    return Case("concat", parts, lambda *x: torch.cat(x, axis), mixing=False, axis=axis)


def cut(d):
    shape = d.shape(1, 4)
    axis = d.rng.randrange(len(shape))
    begin = d.rng.randint(0, shape[axis])
    end = d.rng.randint(begin, shape[axis])
    return Case("slice", [d.values(shape)], lambda x: x.narrow(axis, begin, end - begin), mixing=False, axis=axis,
                begin=begin, end=end)


def transpose(d):
    shape = d.shape(1, 5)
    a, b = d.rng.randrange(len(shape)), d.rng.randrange(len(shape))
    return Case("transpose", [d.values(shape)], lambda x: x.transpose(a, b), mixing=False, axis_a=a, axis_b=b)


def pooled(d):
    return d.size(), d.size(1), d.size(1)


def mean_pool(d):
    batch, tokens, width = pooled(d)
    valid = d.padding(batch, tokens) if d.flag(0.7) else None

    def reference(x, mask):
        if mask is None:
            return x.mean(1)
        return torch.where(mask[..., None], x, 0.0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    return Case("mean_pool", [d.values([batch, tokens, width]), valid], reference)


def max_pool(d):
    batch, tokens, width = pooled(d)
    valid = d.padding(batch, tokens) if d.flag(0.7) else None

    def reference(x, mask):
        # A sample without a valid token gets 0.
        samples = [sample if mask is None else sample[mask[i]] for i, sample in enumerate(x)]
        if not samples:
            return x[:, 0]
        return torch.stack([first_maximum(s, 0) if len(s) else torch.zeros_like(x[0, 0]) for s in samples])

    return Case("max_pool", [d.values([batch, tokens, width]), valid], reference, mixing=False)


def cls_pool(d):
    batch, tokens, width = pooled(d)
    valid = d.padding(batch, tokens, some=True) if d.flag(0.7) else None

    def reference(x, mask):
        first = torch.zeros(batch, dtype=torch.int64) if mask is None else mask.to(torch.uint8).argmax(1)
        return x[torch.arange(batch), first]

    return Case("cls_pool", [d.values([batch, tokens, width]), valid], reference, mixing=False)


def last_token_pool(d):
    batch, tokens, width = pooled(d)
    valid = d.padding(batch, tokens, some=True) if d.flag(0.7) else None

    def reference(x, mask):
        last = torch.full([batch], tokens - 1) if mask is None else (torch.arange(tokens) * mask).max(1).values
        return x[torch.arange(batch), last]

    return Case("last_token_pool", [d.values([batch, tokens, width]), valid], reference, mixing=False)


def select_token(d):
    batch, tokens, width = pooled(d)
    return Case("select_token", [d.values([batch, tokens, width]), d.indices([batch], tokens)],
                lambda x, i: x[torch.arange(batch), i.long()], mixing=False)


def first_token(d):
    batch, tokens, wanted = d.size(), d.size(1), d.rng.randrange(4)
    valid = d.padding(batch, tokens) if d.flag(0.7) else None

    def reference(ids, mask):
        found = ids == wanted if mask is None else (ids == wanted) & mask
        return torch.where(found.any(1), found.to(torch.uint8).argmax(1), -1)

    return Case("first_token", [d.indices([batch, tokens], 4), valid], reference, mixing=False, id=wanted)


def token_positions(d):
    first = d.rng.choice([0, 1, 2, 5])
    return Case("token_positions", [d.padding(d.size(), d.size(1))],
                lambda mask: torch.where(mask, mask.long().cumsum(1) + first - 1, first - 1), mixing=False, first=first)


def activate(d):
    number = d.rng.randrange(len(ACTIVATIONS))
    return Case("activate", [d.values(d.shape())], ACTIVATIONS[number], mixing=False, activation=number,
                size=0.25 if d.dtype == torch.float64 else 0.0)


# All but `dropout`, `drop_path` and `sample_uniform`, whose draws PyTorch has not.
OPS = [
    binary("add", torch.add), binary("subtract", torch.sub), binary("multiply", torch.mul), binary("divide", torch.div),
    scale, unary("negate", torch.neg), unary("exp", torch.exp), unary("log", torch.log), unary("sqrt", torch.sqrt),
    unary("rsqrt", torch.rsqrt), power, activation("tanh", torch.tanh), unary("erf", torch.erf),
    unary("sigmoid", torch.sigmoid), unary("relu", F.relu), activation("gelu", ACTIVATIONS[1]),
    activation("gelu_tanh", ACTIVATIONS[2]), activation("quick_gelu", ACTIVATIONS[0]), activation("silu", F.silu),
    unary("softplus", lambda x: torch.logaddexp(x, torch.zeros_like(x))), clamp, activate,
    reduction("sum", lambda x, axis: x.sum(axis), 0), reduction("mean", lambda x, axis: x.mean(axis)),
    reduction("max", first_maximum), reduction("logsumexp", torch.logsumexp), reduction("norm", euclidean_norm, 0),
    distance, whole("sum_all", torch.sum), whole("mean_all", torch.mean),
    row_wise("softmax", lambda x: torch.softmax(x, -1)), row_wise("log_softmax", lambda x: torch.log_softmax(x, -1)),
    masked_softmax, cross_entropy, layer_norm, rms_norm, l2_normalize, batch_norm, frozen_batch_norm,
    matmul, linear, activated_linear, multi_linear, normalized_linear, attention, biased_attention, rope, rope_table,
    gated, patch_embedding,
    embedding, gather_rows, reshape, concat, cut, transpose, mean_pool, max_pool, cls_pool, last_token_pool,
    select_token, first_token, token_positions,
]
