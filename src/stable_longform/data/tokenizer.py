"""Trains a tokenizer on prompts, with RoBERTa's special tokens."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # RoBERTa's; their ids are 0 to 4
SMALLEST_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256  # and each byte


def train_tokenizer(prompts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE with RoBERTa's special tokens and at most `vocab_size` tokens.

    Each word of the prompts also counts in lower case, with and without a preceding blank. So a frequent word is one
    token at the start of a prompt as well as inside it.

    Raises:
        ValueError: `vocab_size` is too small for the 256 bytes and the special tokens.
    """
    if vocab_size < SMALLEST_VOCAB_SIZE:
        raise ValueError(f"text_config.vocab_size must be at least {SMALLEST_VOCAB_SIZE}, got {vocab_size}.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = [word for prompt in prompts for word in prompt.lower().split()]
    tokenizer.train_from_iterator([*prompts, *words, *(f" {word}" for word in words)], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer
