"""The built-in vocabulary: how it is trained, and how texts are read by it."""

from __future__ import annotations

import random
import re

import pytest

from medgen.errors import DataError
from medgen.models.text.prompts import Prompts
from medgen.models.text.wordpiece import INSIDE, MARKS, WordPieces, familiar_words, plain_words, train_vocabulary

CAPTIONS = [
    f"{modality} of the {side} {organ} with {number} {finding}"
    for modality, organ in (("fundus", "eye"), ("Chest X-ray", "lung"), ("oct", "macula"))
    for side in ("left", "right")
    for number in ("one", "two", "three")
    for finding in ("haemorrhages", "nodules", "drusen")
]
WORDS = set(plain_words(" ".join(CAPTIONS)))
VOCABULARY = train_vocabulary(CAPTIONS, 400, WORDS)


def spelled(reader: WordPieces, text: str) -> list[str]:
    return [reader.vocabulary[piece] for _, pieces in reader.pieces(text) for piece in pieces]


def test_frequent_words_are_one_piece_and_no_word_is_lost() -> None:
    reader = WordPieces(VOCABULARY, 16)
    assert spelled(reader, "Fundus of the LEFT eye") == ["fundus", "of", "the", "left", "eye"]
    assert spelled(reader, "chest x-ray") == ["chest", "x", "-", "ray"]
    new = spelled(reader, "pneumothorax")
    assert len(new) > 1
    assert "".join(piece.removeprefix(INSIDE) for piece in new) == "pneumothorax"
    assert spelled(reader, "œdème") == ["[UNK]"]
    assert reader.unknown("left œdème") == ["œdème"]
    assert spelled(reader, "érythème") == spelled(reader, "erytheme")


def test_words_that_hardly_any_caption_had_are_told_apart_from_those_that_are_not_read() -> None:
    told = [*enumerate(CAPTIONS), ("a", "Effusion once, of Smith"), ("b", "three drüsen"), ("a", "Smith, once more")]
    words = familiar_words((str(owner), text) for owner, text in told)
    assert words == tuple(sorted({word for text in CAPTIONS for word in re.findall(r"\w+", text.lower())}))
    prompts = Prompts(WordPieces(VOCABULARY, 16), (), frozenset(words))
    assert prompts.strange("FUNDUS of the left ey, once; œdème: 7 haemorrhages, 7 drusen") == ["ey", "once", "7"]
    assert Prompts(WordPieces(VOCABULARY, 16)).strange("ey") == []  # a model that does not say


def test_a_word_that_is_not_shared_is_no_piece_of_the_vocabulary() -> None:
    told = [*CAPTIONS, *["two drusen of Hans Sørensen"] * 9]
    vocabulary, letters = train_vocabulary(told, 400, WORDS), {"ø", INSIDE + "ø"}
    assert letters <= set(vocabulary)  # so that the word can be read
    assert not {"hans", "##ans", "##rensen"} & set(vocabulary)
    assert not any("ø" in piece for piece in set(vocabulary) - letters)
    assert "sørensen" in train_vocabulary(told, 400, {*WORDS, "sørensen"})


def test_the_vocabulary_depends_on_the_captions_alone_not_on_their_order() -> None:
    shuffled = random.Random(0).sample(CAPTIONS, len(CAPTIONS))
    assert train_vocabulary(shuffled, 400, WORDS) == VOCABULARY
    assert VOCABULARY[:4] == MARKS
    assert len(set(VOCABULARY)) == len(VOCABULARY) <= 400
    small = train_vocabulary(CAPTIONS, 130, WORDS)
    assert len(small) == 130
    assert small == VOCABULARY[:130]
    with pytest.raises(DataError, match=r"text\.vocabulary = 100"):
        train_vocabulary(CAPTIONS, 100, WORDS)


def test_words_are_split_as_by_the_library_tokenizers() -> None:
    library = pytest.importorskip("tokenizers")
    ids = {piece: number for number, piece in enumerate(VOCABULARY)}
    theirs = library.models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100)
    reader = WordPieces(VOCABULARY, 16)
    draw = random.Random(0)
    words = [text for caption in CAPTIONS for text in caption.lower().split() if text.isalpha()]
    words += ["".join(draw.choices("aehlmnorsty0ñ", k=draw.randint(1, 9))) for _ in range(200)]
    for word in words:
        plain = word.replace("ñ", "n")
        expected = [token.value for token in theirs.tokenize(plain)]
        assert spelled(reader, word) == expected


def test_a_long_text_is_cut_at_a_word_and_padding_is_marked() -> None:
    reader = WordPieces(VOCABULARY, 6)
    assert reader.cut("fundus of the left") == ""
    assert reader.cut("fundus of the left eye with drusen") == "eye with drusen"
    parts = reader.read(["fundus", "fundus of the left eye with drusen", ""])
    assert parts["words"].shape == (3, 6)
    assert parts["token_mask"].sum(1).tolist() == [3, 6, 2]
    assert [VOCABULARY[piece] for piece in parts["words"][1]] == ["[CLS]", "fundus", "of", "the", "left", "[SEP]"]
