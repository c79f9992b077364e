"""A byte-level tokenizer made in code: what a language model from scratch uses, with nothing to download."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD_TOKEN = "<pad>"
VOCAB_SIZE = 257


def make_byte_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token per UTF-8 byte, plus ``<pad>``: 257 tokens, lossless for any text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: index for index, symbol in enumerate([PAD_TOKEN, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD_TOKEN)
