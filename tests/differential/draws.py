"""What a case is, and how its shapes and values are drawn."""

import math

import torch


class Case:
    """One op with its inputs (tensors or None), which of them gradients are wanted of, and its reference.

    `mixing`: an element of the result depends on many, so that rounding is relative to the largest of them.
    `size`: of numbers in between that may cancel, to which rounding is relative too.
    `peer`: what PyTorch has of its own, where the reference in f64 is nearer to what is right.
    """

    def __init__(self, op, inputs, reference, mixing=True, autocast="float32", size=0.0, peer=None, **options):
        self.op, self.inputs, self.reference, self.mixing, self.size = op, inputs, reference, mixing, size
        self.peer = peer or reference
        self.autocast, self.options = autocast, options
        self.wanted = [x is not None and x.is_floating_point() for x in inputs]

    def without_gradients_of(self, *places):
        for i in places:
            self.wanted[i] = False
        return self


class Draw:
    """Random shapes and values of one case."""

    def __init__(self, rng, dtype):
        self.rng, self.dtype = rng, dtype
        self.kind = rng.choice(["normal"] * 4 + ["integers", "wide", "offset", "constant", "tiny", "large", "special"])

    def size(self, least=0):
        sizes = [1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 64, 65]
        return max(least, self.rng.choice(sizes + ([0] if least == 0 else [])))

    def shape(self, least_rank=0, most_rank=4, least_size=0):
        shape = []
        for _ in range(self.rng.randint(least_rank, most_rank)):
            size = self.size(least_size)
            shape.append(size if math.prod(shape) * size <= 20000 else max(least_size, 1))
        return shape

    def generator(self):
        return torch.Generator().manual_seed(self.rng.getrandbits(48))

    def values(self, shape, kind=None):
        g, kind = self.generator(), kind or self.kind
        x = torch.randn(shape, generator=g, dtype=torch.float64)
        is_double = self.dtype == torch.float64
        if kind == "integers":
            x = (2 * x).round()
        elif kind == "wide":
            decades = self.rng.choice([3, 12, 30, 100 if is_double else 40])
            x = x * 10 ** ((torch.rand(shape, generator=g, dtype=torch.float64) * 2 - 1) * decades)
        elif kind == "offset":
            x = x + self.rng.choice([10, 1000, -3e5])
        elif kind == "constant":
            x = torch.full(shape, self.rng.choice([0.0, 1.0, 0.1, 12.3456, 1000.1, -7.7]), dtype=torch.float64)
        elif kind == "tiny":
            x = x * self.rng.choice([1e-5, 1e-20, 1e-30, 1e-120 if is_double else 1e-39])
        elif kind == "large":
            x = x * self.rng.choice([30, 300, 1e10, 1e20, 1e120 if is_double else 1e37])
        elif kind == "special":
            limits = torch.finfo(torch.float32)  # squares of which f64 has, so that what is right is known
            pool = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 88.0, -88.0, 104.0, -104.0, limits.eps, limits.tiny, -limits.tiny]
            pool += self.rng.choice([[], [math.nan], [math.inf, -math.inf, limits.max, -limits.max, limits.tiny / 4]])
            chosen = torch.randint(len(pool), x.shape, generator=g)
            x = torch.where(torch.rand(shape, generator=g) < 0.3, torch.tensor(pool, dtype=torch.float64)[chosen], x)
        return x.to(self.dtype)

    def spread(self, shape):
        """Without so large a spread in f64 that squares of it lose what is compared with."""
        return self.values(shape, "normal" if self.dtype == torch.float64 and self.kind in ("wide", "large") else None)

    def tame(self, shape):
        return self.values(shape, self.rng.choice(["normal", "normal", "integers", "tiny", "constant"]))

    def normal(self, shape, scale=1.0):
        return (self.values(shape, "normal") * scale).to(self.dtype)

    def scalar(self, low, high):
        return torch.tensor(self.rng.uniform(low, high), dtype=self.dtype)

    def mask(self, shape, share=None):
        share = self.rng.choice([0.0, 0.3, 0.7, 1.0]) if share is None else share
        return torch.rand(shape, generator=self.generator()) < share

    def padding(self, batch, tokens, some=False):
        """Left or right padding, holes, or anything; with at least one valid token a row where `some`."""
        lengths = torch.randint(1 if some else 0, tokens + 1, (batch, 1), generator=self.generator())
        at = torch.arange(tokens)[None, :]
        mask = self.rng.choice([at < lengths, at >= tokens - lengths, self.mask((batch, tokens))])
        if some:
            mask[:, self.rng.randrange(tokens)] |= ~mask.any(1)
        return mask

    def indices(self, shape, count):
        dtype = self.rng.choice([torch.int64, torch.int32])
        return torch.randint(count, shape, generator=self.generator()).to(dtype)

    def flag(self, chance=0.5):
        return self.rng.random() < chance
