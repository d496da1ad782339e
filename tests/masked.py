"""Tiny masked language models, whose tokenizers have a mask token and split some words."""

from pathlib import Path

from models import WORDS, auto_class_with_head

PIECES = ["trans", "##gender", "##ed", "##s", "teach", "##er", "##ing", "-"]
FRAMES = {
    "bert": ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"),
    "distilbert": ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"),
    "roberta": ("<s>", "</s>", "<pad>", "<unk>", "<mask>"),
}


def make_masked_model(folder: Path, family: str = "bert", *, seed: int = 0, **config) -> Path:
    """Save a masked language model with random weights and its head, and a tokenizer.

    WordPiece splits "transgender" and "teacher"; byte-level BPE, that of RoBERTa, splits the words
    that it has not seen.
    """
    import torch
    from transformers import AutoConfig, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    first, last, pad, unknown, mask = FRAMES[family]
    fast = _byte_level(first, last, pad, unknown, mask) if family == "roberta" else _word_piece()
    names = {"cls_token": first, "sep_token": last, "pad_token": pad, "unk_token": unknown}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, mask_token=mask, **names)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"intermediate_size": 48, "max_position_embeddings": 66}
    if family == "distilbert":
        size = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
        size |= {"max_position_embeddings": 66}
    entries = {"vocab_size": len(tokenizer), "initializer_range": 0.2, "pad_token_id": 1}
    torch.manual_seed(seed)
    disable_progress_bar()
    build = auto_class_with_head(family).from_config
    model = build(AutoConfig.for_model(family, **(entries | size | config)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _word_piece():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = FRAMES["bert"]
    vocabulary = {token: id for id, token in enumerate([*special, *WORDS, *PIECES])}
    vocabulary.pop("transgender")
    vocabulary = {token: id for id, token in enumerate(vocabulary)}
    fast = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece()
    framing = [(token, vocabulary[token]) for token in special[:2]]
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=framing
    )
    return fast


def _byte_level(*special: str):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", *(token for token in special if token[1:3] not in "s>pa")],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    framing = [(token, fast.token_to_id(token)) for token in special[:2]]
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=framing
    )
    return fast
