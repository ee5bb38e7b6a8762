"""A text whose accents are characters of their own is read like any other."""

from __future__ import annotations

import unicodedata

import torch

from medgen.evaluation.agreement import attributes
from medgen.models.text.prompts import key
from medgen.models.text.wordpiece import WordPieces, plain_words, train_vocabulary
from medgen.nets.perception.requested import Requested, request_features
from medgen.prompts import bm25
from medgen.prompts.variation import PromptVariation, varied

TEXT = "Échographie: lésion de la région droite"
APART = unicodedata.normalize("NFD", TEXT)


def test_words_do_not_end_at_their_accents() -> None:
    assert APART != TEXT
    for words in (plain_words, bm25.words_of, attributes.words_of):
        assert words(APART) == words(TEXT)
    ours, theirs = (request_features(Requested(text=[text], modality=[text]), 1, 1) for text in (APART, TEXT))
    assert torch.equal(ours, theirs)
    assert key(APART) == key(TEXT)


def test_a_prompt_is_read_and_cut_like_the_captions_of_the_training() -> None:
    reader = WordPieces(train_vocabulary([TEXT] * 3, 200, set(plain_words(TEXT))), 7)
    assert torch.equal(reader.read([APART])["words"], reader.read([TEXT])["words"])
    assert reader.cut(APART) == reader.cut(TEXT) == "région droite"


def test_synonyms_are_found_in_either_encoding() -> None:
    for term in (TEXT[13:19], unicodedata.normalize("NFD", TEXT[13:19])):
        options = PromptVariation(replace=1.0, synonyms={term: ("masse",)})
        assert varied(APART, options, 0, 0) == TEXT.replace("lésion", "masse")
