"""Makes the folders of cases/: small random models, saved as their own libraries save them, with what those libraries make
of some inputs: representations, a loss, each of its gradients, and the losses of 20 steps of AdamW.

    pip install -r requirements.txt
    python make_references.py

All is computed in f64 from weights that their file holds exactly. reference.safetensors has, beside it, the inputs.
"""

import shutil

import torch

from models.clip import clip_cases, open_clip_case, sentence_clip_case
from models.parts import CASES
from models.rotary import rotary_cases
from models.sentences import bert_cases, lora_case, mpnet_case, roberta_case, xlm_roberta_case
from models.siglip import open_clip_siglip_case, siglip_case, siglip_tower_cases
from models.vit import vit_cases


def main():
    torch.manual_seed(18)
    torch.set_num_threads(1)
    shutil.rmtree(CASES, ignore_errors=True)
    CASES.mkdir()
    bert_cases()
    clip_cases()
    open_clip_case("open_clip", False)
    open_clip_case("open_clip_quick", True)
    xlm_roberta_case("xlm_roberta")
    roberta_case("roberta")
    mpnet_case("mpnet")
    rotary_cases()
    sentence_clip_case("sentence_clip")
    siglip_case("siglip")
    siglip_tower_cases()
    open_clip_siglip_case("open_clip_siglip")
    vit_cases()
    lora_case("bert_mean")


if __name__ == "__main__":
    main()
