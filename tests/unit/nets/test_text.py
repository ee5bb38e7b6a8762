"""What a text adds to a UNet: the encoder of its own, those from outside, modalities, and the parts of a condition."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import Tensor

from medgen.errors import ConfigError, DataError
from medgen.nets.condition import Condition
from medgen.nets.options import OutsideTextConfig, TextConfig, UNetConfig
from medgen.nets.text.encoder import TextEncoder
from medgen.nets.text.modality import UNSAID, ModalityFusion, with_new_modalities
from medgen.nets.text.pretrained import OutsideEncoder, rows_encoded
from medgen.nets.unet import UNet

READS = UNetConfig(
    in_channels=1, out_channels=1, widths=(8, 16), blocks=1, attention=("none", "none"), mid_attention="none",
    head_width=8, time_width=16, groups=4, context_width=16, pooled_width=12,
    text=TextConfig(vocabulary=64, length=9, layers=2, head_width=8), modalities=2,
)  # fmt: skip
WORDS = torch.tensor([[2, 7, 9, 30, 3], [2, 8, 3, 0, 0]])
REAL = WORDS != 0
X, TIME = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([10.0, 500.0])


def stirred(network: torch.nn.Module) -> torch.nn.Module:
    """With random numbers in place of the zeros that branches begin with."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return network.eval()


@pytest.fixture(params=[False, True], ids=["", "direct"])
def unet(request: pytest.FixtureRequest) -> UNet:
    torch.manual_seed(0)
    text = msgspec.structs.replace(READS.text or TextConfig(), direct=request.param)
    return stirred(UNet(msgspec.structs.replace(READS, text=text)))  # type: ignore[return-value]


def longer(words: Tensor, by: int = 4) -> Tensor:
    return torch.nn.functional.pad(words, (0, by))


def asked(words: Tensor, modality: tuple[int, ...] = (1, 2), **parts: Tensor) -> Condition:
    return Condition(words=words, token_mask=words != 0, modality=torch.tensor(modality[: len(words)]), **parts)


def test_padding_changes_nothing_and_every_word_counts(unet: UNet) -> None:
    encoder = stirred(TextEncoder(READS.text or TextConfig(), 16, 12))
    states, padded = encoder(WORDS, REAL), encoder(longer(WORDS), longer(REAL))
    torch.testing.assert_close(padded.tokens[:, :5][REAL], states.tokens[REAL], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(padded.pooled, states.pooled, rtol=1e-5, atol=1e-6)
    plain = unet(X, TIME, asked(WORDS))
    torch.testing.assert_close(unet(X, TIME, asked(longer(WORDS))), plain, rtol=1e-4, atol=1e-5)
    other = WORDS.clone()
    other[0, 3] = 31
    changed = (unet(X, TIME, asked(other)) - plain).abs().amax(1)
    assert changed[0].min() > 0  # in every corner of the image
    assert changed[1].max() < 1e-5
    with pytest.raises(DataError, match="10 pieces"):
        unet(X, TIME, asked(longer(WORDS, 5)))


def test_what_a_word_adds_directly_is_not_thinned_by_the_others() -> None:
    text = msgspec.structs.replace(READS.text or TextConfig(), direct=True)
    encoder = TextEncoder(text, 16, 12, 16)
    assert encoder.direct is not None
    rows = encoder.direct.weight
    alone, among = encoder(WORDS[:, :1]).direct, encoder(WORDS, REAL).direct
    torch.testing.assert_close(alone, rows[WORDS[:, 0]])
    torch.testing.assert_close(among, torch.stack([rows[[2, 7, 9, 30, 3]].sum(0), rows[[2, 8, 3]].sum(0)]))
    assert "text.direct.weight" not in UNet(READS).state_dict()


def test_without_a_condition_no_word_or_modality_counts(unet: UNet) -> None:
    present = torch.tensor([False, True])
    one = unet(X, TIME, asked(WORDS, present=present))
    two = unet(X, TIME, asked(WORDS.flip(0), (2, 2), present=present))
    torch.testing.assert_close(one[0], two[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one[0], unet(X, TIME)[0], rtol=1e-5, atol=1e-6)
    assert (one[1] - two[1]).abs().max() > 1e-3
    assert (unet(X, TIME, asked(WORDS)) - unet(X, TIME, asked(WORDS, (2, 1)))).abs().amax((1, 2, 3)).min() > 1e-3


def test_prompts_of_different_lengths_are_joined_and_read_once(unet: UNet) -> None:
    condition, other = asked(WORDS), asked(longer(WORDS).flip(0))
    both = unet(X.repeat(2, 1, 1, 1), TIME.repeat(2), condition.joined(other))
    apart = torch.cat([unet(X, TIME, condition), unet(X, TIME, other)])
    torch.testing.assert_close(both, apart, rtol=1e-4, atol=1e-5)
    prepared = unet.prepared(condition)
    assert prepared.words is None
    assert prepared.modality is None
    assert torch.equal(unet(X, TIME, prepared), unet(X, TIME, condition))
    states = Condition(tokens=torch.randn(2, 3, 16))  # of an encoder outside, with no mask
    joined = states.joined(Condition(tokens=torch.randn(2, 5, 16))).token_mask
    assert joined is not None
    assert joined.sum(1).tolist() == [3, 3, 5, 5]


@pytest.mark.parametrize("fusion", ["product", "concat"])
def test_a_modality_begins_as_nothing_and_a_new_one_leaves_the_old_as_they_are(fusion: str) -> None:
    encoder = TextEncoder(READS.text or TextConfig(), 16, 12)
    states = encoder(WORDS, REAL)
    fused = ModalityFusion(2, (16, 12), fusion)(states, torch.tensor([1, 2]))  # type: ignore[arg-type]
    assert torch.equal(fused.tokens, states.tokens)
    assert torch.equal(fused.pooled, states.pooled)
    torch.manual_seed(0)
    config = msgspec.structs.replace(READS, fusion=fusion)
    old = stirred(UNet(config))
    new = UNet(msgspec.structs.replace(config, modalities=3)).eval()
    new.load_state_dict(with_new_modalities(old.state_dict(), 3))
    for modality in ((1, 2), (2, UNSAID)):
        assert torch.equal(new(X, TIME, asked(WORDS, modality)), old(X, TIME, asked(WORDS, modality)))
    assert torch.equal(new(X, TIME, asked(WORDS, (3, 3))), old(X, TIME, asked(WORDS, (UNSAID, UNSAID))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_from_outside_are_fused_at_the_precision_of_the_network(dtype: torch.dtype) -> None:
    deaf = stirred(UNet(msgspec.structs.replace(READS, text=None))).to(dtype)
    states = {"tokens": torch.randn(2, 3, 16), "pooled": torch.randn(2, 12)}
    one, two = (deaf(X, TIME, Condition(**states, modality=torch.tensor([number] * 2))) for number in (1, 2))
    assert one.dtype == dtype
    assert (one - two).abs().max() > 1e-3


def test_parts_that_a_network_lacks_are_named() -> None:
    deaf = UNet(msgspec.structs.replace(READS, text=None, modalities=0))
    with pytest.raises(ConfigError, match="without a text encoder"):
        deaf(X, TIME, Condition(words=WORDS))
    with pytest.raises(ConfigError, match="without any"):
        deaf(X, TIME, Condition(tokens=torch.zeros(2, 3, 16), modality=torch.tensor([1, 1])))
    with pytest.raises(ConfigError, match="context_width"):
        msgspec.structs.replace(READS, context_width=0)


@pytest.mark.parametrize("family", ["bert", "clip_text_model"])
def test_encoders_from_outside_give_the_states_of_transformers(family: str) -> None:
    library = pytest.importorskip("transformers")
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    settings = {"model_type": family, "vocab_size": 40, "max_position_embeddings": 12, **shape}
    if family != "bert":
        settings |= {"bos_token_id": 2, "eos_token_id": 3}
    torch.manual_seed(0)
    ours = OutsideEncoder(OutsideTextConfig(settings, width=16, length=9)).eval()
    kind = library.BertModel if family == "bert" else library.CLIPTextModel
    theirs = kind(library.AutoConfig.for_model(**settings)).eval()
    theirs.load_state_dict(ours.model.state_dict(), strict=False)
    words = WORDS.where(WORDS != 0, 3)
    expected = theirs(input_ids=words, attention_mask=REAL.long())
    found = ours(words, REAL)
    torch.testing.assert_close(found.tokens[REAL], expected.last_hidden_state[REAL], rtol=1e-5, atol=1e-6)
    if family == "bert":  # no checkpoint is sure to hold a trained pooler
        pooled = torch.stack([row[real].mean(0) for row, real in zip(expected.last_hidden_state, REAL, strict=True)])
    else:
        pooled = expected.pooler_output
    torch.testing.assert_close(found.pooled, pooled, rtol=1e-5, atol=1e-6)
    alone = rows_encoded(ours, words[1:], REAL[1:])
    assert torch.equal(alone.tokens[0], rows_encoded(ours, words, REAL).tokens[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(alone.tokens, rows_encoded(ours, words[1:], REAL[1:]).tokens)
    trained = UNet(
        msgspec.structs.replace(READS, text=None, pooled_width=16, outside_text=OutsideTextConfig(settings, 16, 9))
    )
    trained(X, TIME, asked(words)).square().sum().backward()
