"""Tokenizers of every kind, as the published ones are made. Each function trains one of about `size` tokens on `corpus`."""

import json
import tempfile
import unicodedata
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers


def special(*tokens):
    return [AddedToken(token, special=True, normalized=False) for token in tokens]


def word_piece(corpus, size, lowercase=True):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(corpus, trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    if lowercase:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", cls), ("[SEP]", sep)])
    else:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    return tokenizer


def bert_uncased(corpus, size):
    return word_piece(corpus, size)


def bert_cased(corpus, size):
    return word_piece(corpus, size, lowercase=False)


def train_bpe(tokenizer, corpus, size, tokens, alphabet=True, **options):
    initial = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=size, special_tokens=tokens, initial_alphabet=initial, show_progress=False, **options))
    return tokenizer


def clip(corpus, size):
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", continuing_subword_prefix="", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    expression = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(expression), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    train_bpe(tokenizer, corpus, size, special("<|startoftext|>", "<|endoftext|>"), end_of_word_suffix="</w>")
    begin, end = tokenizer.token_to_id("<|startoftext|>"), tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", end), ("<|startoftext|>", begin), trim_offsets=False, add_prefix_space=False)
    return tokenizer


def roberta(corpus, size):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    train_bpe(tokenizer, corpus, size, special("<s>", "<pad>", "</s>", "<unk>"))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def gpt2(corpus, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    train_bpe(tokenizer, corpus, size, special("<|endoftext|>"))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def qwen(corpus, size):
    expression = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
                  r"\s+(?!\S)|\s+")
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(expression), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    train_bpe(tokenizer, corpus, size, special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="$A:0 <|endoftext|>:0", pair="$A:0 $B:1 <|endoftext|>:1",
                                      special_tokens=[("<|endoftext|>", 0)])])
    return tokenizer


def modern_bert(corpus, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    train_bpe(tokenizer, corpus, size, special("[UNK]", "[CLS]", "[SEP]", "[PAD]"))
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in (2, 3, 4)])
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return tokenizer


def charsmap(rules):
    """SentencePiece's map of characters: of a rule's name, or of {what: by what}."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"normalization_rule_name": rules}
        if isinstance(rules, dict):
            table = Path(folder) / "rules.tsv"
            points = {" ".join(f"{ord(c):X}" for c in a): " ".join(f"{ord(c):X}" for c in b) for a, b in rules.items()}
            table.write_text("".join(f"{a}\t{b}\n" for a, b in points.items()))
            options = {"normalization_rule_tsv": str(table)}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c d e f g"] * 10), model_prefix=folder + "/m", vocab_size=12, minloglevel=3,
            hard_vocab_limit=False, **options)
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString(Path(folder, "m.model").read_bytes())
        return model.normalizer_spec.precompiled_charsmap


def small_rules():
    """What NFKC makes of some characters, with machine translation's blanks."""
    rules = {chr(c): " " for c in (9, 10, 13, 0xA0, 0x1680, 0x200B, 0x2028, 0x3000)} | {chr(c): "" for c in (1, 0x1B, 0x7F)}
    single = (0x2122, 0x2126, 0x212A, 0xFB01, 0xFDFA, 0x3382)
    for c in [*range(0xA0, 0x250), *single, *range(0xFF21, 0xFF3B), *range(0x2460, 0x2470)]:
        normal = unicodedata.normalize("NFKC", chr(c))
        if normal != chr(c):
            rules[chr(c)] = normal
    for c in range(0xC0, 0x180):
        parts = unicodedata.normalize("NFD", chr(c))
        if len(parts) == 2:
            rules[parts] = chr(c)
    return rules


def train_unigram(tokenizer, corpus, size, tokens, unknown="<unk>"):
    """Of lines in a few scripts where few tokens have to do, as each character is one."""
    if size < 5000:
        corpus = [line[2:] for line in corpus if max(line[2:], default="a") < "\u0590"]
    tokenizer.train_from_iterator(corpus, trainers.UnigramTrainer(
        vocab_size=size, special_tokens=tokens, unk_token=unknown, show_progress=False, max_piece_length=12))
    return tokenizer


def xlm_roberta(corpus, size):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Precompiled(charsmap("nmt_nfkc" if size > 5000 else small_rules()))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    train_unigram(tokenizer, corpus, size, special("<s>", "<pad>", "</s>", "<unk>"))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer


def siglip(corpus, size):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Lowercase(), normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    train_unigram(tokenizer, corpus, size, special("<pad>", "</s>", "<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def llama(corpus, size):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    bytes_ = special("<unk>", "<s>", "</s>") + [f"<0x{b:02X}>" for b in range(256)]
    train_bpe(tokenizer, (line[:60] for line in corpus), size, bytes_, alphabet=False, limit_alphabet=size // 3,
              max_token_length=10)
    made = json.loads(tokenizer.to_str())  # the bytes are tokens of the model alone
    made["added_tokens"] = made["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(made))


def gemma(corpus, size):
    """No bytes to fall back to: unknown characters that are not fused, and Metaspace before BPE."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Digits(individual_digits=True)])
    train_bpe(tokenizer, corpus, size, special("<unk>", "<s>"), alphabet=False, limit_alphabet=size // 3)
    tokenizer.add_tokens([AddedToken("yesterday", single_word=True), AddedToken("today", rstrip=True, normalized=False)])
    return tokenizer


def unigram_bytes(corpus, size):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("merged_with_next"), pre_tokenizers.Metaspace(prepend_scheme="never", split=False)])
    train_unigram(tokenizer, corpus, size, special("<unk>"))
    made = json.loads(tokenizer.to_str())
    made["model"]["vocab"] += [[f"<0x{b:02X}>", -20.0] for b in range(256)]
    made["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(made))


def words(corpus, size):
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        corpus, trainers.WordLevelTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False))
    tokenizer.add_tokens([AddedToken("yesterday", single_word=True), AddedToken("New York", lstrip=True, rstrip=True)])
    return tokenizer


def delimiters(corpus, size):
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.CharDelimiterSplit("e"), pre_tokenizers.Digits(), pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.Split(" ", "merged_with_previous"), pre_tokenizers.Split(Regex(r"a|"), "merged_with_next"),
        pre_tokenizers.FixedLength(3)])
    tokenizer.train_from_iterator(
        corpus, trainers.WordLevelTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False))
    return tokenizer


KINDS = [bert_uncased, bert_cased, clip, roberta, gpt2, qwen, modern_bert, xlm_roberta, siglip, llama, gemma, unigram_bytes,
         words, delimiters]
