"""Text encoders of several families, as transformers saves them, read texts as long as they can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medgen.models.text.pretrained import load_pretrained
from medgen.models.text.prompts import words_of

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "image", "of", "a", "left", "lung", "and", "right")
SHAPE = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
MARKS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}


@pytest.mark.parametrize(
    ("family", "more", "length"),
    [
        ("Bert", {}, 12),
        ("Electra", {"embedding_size": 8}, 12),
        ("DebertaV2", {}, 12),
        ("ModernBert", MARKS, 12),
        ("Roberta", {"pad_token_id": 0}, 11),  # its first place is the padding's
    ],
)
def test_encoders_with_and_without_a_layer_for_pooling(
    tmp_path: Path, family: str, more: dict[str, Any], length: int
) -> None:
    library, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    numbers = {word: number for number, word in enumerate(WORDS)}
    words = tokenizers.Tokenizer(tokenizers.models.WordPiece(numbers, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    marks = [("[CLS]", 2), ("[SEP]", 3)]
    words.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=marks)
    library.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(tmp_path)
    settings = {"vocab_size": len(WORDS), "max_position_embeddings": 12, **SHAPE, **more}
    torch.manual_seed(0)
    theirs = getattr(library, f"{family}Model")(getattr(library, f"{family}Config")(**settings)).eval()
    theirs.save_pretrained(tmp_path)
    found = load_pretrained(str(tmp_path), 77)
    assert found.config.length == length
    read = words_of(found).read(["the left lung", "the left and the right lung " * 3])
    states = found.encoder(torch.device("cpu"))(read["words"], read["token_mask"])
    with torch.no_grad():
        expected = theirs(input_ids=read["words"], attention_mask=read["token_mask"].long()).last_hidden_state
    real = read["token_mask"]
    torch.testing.assert_close(states.tokens[real], expected[real], atol=1e-5, rtol=1e-5)
