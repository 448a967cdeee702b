"""Steps of sentence-transformers' CachedMultipleNegativesRankingLoss on one batch of pairs. See protocol.py."""

import argparse
import time

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

from protocol import resident_bytes, serve


class Training:
    """All pairs of a file are one batch; tokens are made again for each step, as a data loader does."""

    def __init__(self, options):
        self.model = SentenceTransformer(options.model, device="cpu")
        self.model.max_seq_length = options.max_tokens
        self.loss = CachedMultipleNegativesRankingLoss(self.model, scale=20.0, mini_batch_size=options.chunk)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=options.rate, weight_decay=0.01)
        with open(options.pairs, encoding="utf-8") as file:
            rows = [line.rstrip("\n").split("\t") for line in file][1:]
        self.columns = [list(column) for column in zip(*rows)]
        self.requests = {"gradients": self.gradients, "encode": self.encode, "save": self.save}

    def backward(self):
        loss = self.loss([self.model.tokenize(texts) for texts in self.columns], None)
        loss.backward()
        return loss.item()

    def step(self):
        self.model.train()
        loss = self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def gradients(self, path):
        """Without dropout."""
        self.model.eval()
        loss = self.backward()
        save_file({name.removeprefix("0.auto_model.").removeprefix("0.model."): p.grad.clone()
                   for name, p in self.model.named_parameters() if p.grad is not None}, path)
        self.optimizer.zero_grad()
        return {"loss": loss}

    def encode(self, path):
        with open(path, encoding="utf-8") as file:
            texts = [line.rstrip("\n") for line in file]
        begin = time.perf_counter()
        vectors = self.model.encode(texts, batch_size=32, convert_to_tensor=True, show_progress_bar=False)
        seconds = time.perf_counter() - begin
        save_file({"embeddings": vectors.contiguous()}, path + ".safetensors")
        return {"seconds": seconds}

    def save(self, path):
        self.model.save(path)
        return {}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    serve(Training(options), resident_bytes("VmRSS"))


if __name__ == "__main__":
    main()
