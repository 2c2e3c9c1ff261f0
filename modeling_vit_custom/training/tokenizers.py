"""Words as numbers, where no tokenizer comes with a text tower: one learned from the captions themselves."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers import normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordLevelTrainer
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]")


def word_tokenizer(captions: Sequence[str], max_length: int = 32) -> PreTrainedTokenizerFast:
    """A token for each word of the captions, in lower case; a word that is not among them is `[UNK]`."""
    tokenizer = Tokenizer(WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.train_from_iterator(captions, WordLevelTrainer(special_tokens=list(SPECIAL), show_progress=False))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[BOS]", "[EOS]")]
    tokenizer.post_processor = TemplateProcessing(single="[BOS] $A [EOS]", special_tokens=ends)
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)
