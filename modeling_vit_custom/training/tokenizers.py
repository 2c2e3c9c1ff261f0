"""Words as numbers, where no tokenizer comes with a text tower: one learned from the captions themselves."""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers import normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordLevelTrainer
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]")
IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


def special_ids(tokenizer: Any) -> dict[str, int]:
    """The ids of its special tokens, as a text tower's configuration names them."""
    return {name: getattr(tokenizer, name) for name in IDS if getattr(tokenizer, name, None) is not None}


def check_end(tokenizer: Any, config: Any):
    """Raise where a text tower takes a caption's vector at another token than the tokenizer ends captions with."""
    theirs, end = getattr(config.text_config, "eos_token_id", None), tokenizer.eos_token_id
    if config.text_pooling != "pooler_output" or None in (theirs, end):
        return
    # CLIP's towers with 2, a mistake of older transformers, take the highest token instead.
    highest = theirs == 2 and config.text_config.model_type.startswith("clip")
    if end != (len(tokenizer) - 1 if highest else theirs):
        means = ", by which it takes a caption's highest token" if highest else ""
        raise ValueError(
            f"The text tower's `eos_token_id` is {theirs}{means}, the tokenizer's is {end}: set it in `text_config` to "
            f"{end}, or take the tower's own tokenizer."
        )


def first_caption(captions: str | Sequence[str]) -> str:
    """Of an image's caption, or its captions: an evaluation goes by the first."""
    return captions if isinstance(captions, str) else (*captions, "")[0]


def flat(captions: Iterable[str | Sequence[str]]) -> list[str]:
    """All captions of all images."""
    return [one for some in captions for one in ([some] if isinstance(some, str) else some)]


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
