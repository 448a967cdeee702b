"""What every family of reference models takes part in: their sizes, inputs and losses, and what is written of them."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

CASES = Path(__file__).resolve().parents[1] / "cases"
VOCABULARY, TOKENS, TEXTS, STEPS, RATE, SCALE = 60, 9, 6, 20, 1e-3, 0.3
LAYERS = dict(num_hidden_layers=2, num_attention_heads=2)


def shake(model):
    """Values at which every part matters: no bias 0, no norm the identity, no attention even."""
    for name, parameter in model.named_parameters():
        if name.endswith("logit_scale"):
            parameter.data.fill_(1.25)
        elif name.endswith("logit_bias"):
            parameter.data.fill_(-2.0)
        else:
            parameter.data += 0.25 * torch.randn_like(parameter)
    return model.eval()


def as_it_is(name, gradient):
    return [(name, gradient)]


def write(name, found):
    save_file({key: value.contiguous() for key, value in found.items()}, CASES / name / "reference.safetensors")


def evaluate(modules, names, forward, loss_of, inputs):
    """What the modules make of the inputs, by name."""
    modules = modules.double()
    wide = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    found = dict(inputs)
    z = forward(modules, wide)
    loss = loss_of(modules, z)
    loss.backward()
    found |= {f"output.{key}": value.detach() for key, value in z.items()}
    found["loss"] = loss.detach()
    parameters = {name: p for name, p in modules.named_parameters() if p.grad is not None}
    for name, parameter in parameters.items():
        for theirs, gradient in names(name, parameter.grad):
            found[f"gradient.{theirs}"] = gradient.float().contiguous()
    decayed = [p for p in parameters.values() if p.dim() > 1]
    others = [p for p in parameters.values() if p.dim() <= 1]
    adam = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=RATE)
    losses = []
    for _ in range(STEPS):
        adam.zero_grad()
        loss = loss_of(modules, forward(modules, wide))
        losses.append(loss.detach())
        loss.backward()
        adam.step()
    found["losses"] = torch.stack(losses)
    return found


def texts(left=False, pairs=False, first=5):
    """Ids of texts of several lengths, their mask and, for pairs, the types."""
    ids = torch.randint(first, VOCABULARY - 1, (TEXTS, TOKENS), dtype=torch.int32)
    valid = torch.zeros(TEXTS, TOKENS, dtype=torch.bool)
    types = torch.zeros(TEXTS, TOKENS, dtype=torch.int32)
    for row, length in enumerate([9, 4, 6, 2, 7, 5]):
        places = slice(TOKENS - length, TOKENS) if left else slice(0, length)
        valid[row, places] = True
        types[row, places] = (torch.arange(length) >= length // 2).int()
    ids[~valid] = 0
    return {"ids": ids, "valid": valid, **({"types": types} if pairs else {})}


def images():
    return {"images": torch.randn(TEXTS, 3, 8, 8)}


def halves(z):
    """InfoNCE of the first half against the second."""
    queries, targets = z[next(name for name in ("logits", "texts", "images") if name in z)].chunk(2)
    return F.cross_entropy(SCALE * queries @ targets.T, torch.arange(len(queries)))


def both(z, scale):
    logits = scale.exp() * z["images"] @ z["texts"].T
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
