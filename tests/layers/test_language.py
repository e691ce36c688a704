"""Text encoders against torch's packed sequences and plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from refseg_cli.errors import RefsegError
from refseg_cli.layers import language
from refseg_cli.layers.language import Bert, BiGru, BiLstm, SentencePooling, SmallTransformer

LENGTHS = torch.tensor([6, 1, 4])
KEEP = torch.arange(6) < LENGTHS[:, None]


@pytest.mark.parametrize(("kind", "cell"), [(BiGru, nn.GRU), (BiLstm, nn.LSTM)])
def test_recurrent_encoders_equal_a_packed_bidirectional_network(kind: type[BiGru], cell: type[nn.GRU]) -> None:
    torch.manual_seed(0)
    ours = kind(20, embedding_dim=5, dim=7, dropout=0.3).eval()
    theirs = cell(5, 7, batch_first=True, bidirectional=True)
    weights = {f"{name}": value for name, value in ours.forwards.state_dict().items()}
    weights |= {f"{name}_reverse": value for name, value in ours.backwards.state_dict().items()}
    theirs.load_state_dict(weights)
    tokens = torch.randint(1, 20, (3, 6))
    packed = pack_padded_sequence(ours.embedding(tokens), LENGTHS, batch_first=True, enforce_sorted=False)
    states, last = theirs(packed)
    both, _ = pad_packed_sequence(states, batch_first=True, total_length=6)
    expected = both[..., :7] + both[..., 7:]
    words, sentence = ours.with_sentence(tokens, KEEP)
    torch.testing.assert_close(words[KEEP], expected[KEEP], atol=1e-6, rtol=0)
    torch.testing.assert_close(ours(tokens, KEEP), words)
    hidden = last[0] if cell is nn.LSTM else last  # h_n (2, n, 7), in an LSTM beside c_n
    torch.testing.assert_close(sentence, hidden[0] + hidden[1], atol=1e-6, rtol=0)


def test_a_sentence_is_the_encoders_own_or_the_mean_of_real_words() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(1, 20, (3, 6))
    small = SmallTransformer(20, max_tokens=6, dim=8, heads=2, layers=1, dropout=0.0)
    words, sentence = small.with_sentence(tokens, KEEP)
    for n, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(sentence[n], words[n, :length].mean(0))
    words, sentence = Bert("unused", vocab_size=20, dim=64, layers=1, pretrained=False).with_sentence(tokens, KEEP)
    assert torch.equal(sentence, words[:, 0])  # [CLS]


def test_frozen_embeddings_stay() -> None:
    gru = BiGru(20, embedding_dim=5, dim=7, dropout=0.0, trainable=False)
    gru(torch.randint(1, 20, (3, 6)), KEEP).sum().backward()
    assert gru.embedding.weight.grad is None


def test_what_does_not_learn_records_nothing() -> None:
    tokens = torch.randint(1, 20, (3, 6))
    bert = Bert("unused", vocab_size=20, dim=64, layers=2, pretrained=False, trained=0)
    assert bert(tokens, KEEP).grad_fn is None
    bert = Bert("unused", vocab_size=20, dim=64, layers=2, pretrained=False, trained=1)
    embedded: list[Tensor] = []
    bert.bert.embeddings.register_forward_hook(lambda module, given, out: embedded.append(out))
    assert bert(tokens, KEEP).grad_fn is not None
    assert embedded[0].grad_fn is None


def test_small_transformer_reads_order_and_no_padding() -> None:
    torch.manual_seed(0)
    encoder = SmallTransformer(20, max_tokens=6, dim=8, heads=2, layers=2, dropout=0.1).eval()
    tokens = torch.randint(1, 20, (3, 6))
    words = encoder(tokens, KEEP)
    alone = encoder(tokens[2:, :4], KEEP[2:, :4])
    torch.testing.assert_close(words[2:, :4], alone, atol=1e-6, rtol=0)
    swapped = encoder(tokens[:, [1, 0, 2, 3, 4, 5]], KEEP)
    assert float((swapped[0, 2] - words[0, 2]).detach().abs().max()) > 1e-4


def test_bert_ignores_padding_and_is_rebuilt_from_two_numbers() -> None:
    torch.manual_seed(0)
    bert = Bert("unused", vocab_size=20, dim=64, layers=2, pretrained=False).eval()
    assert bert.dim == 64
    assert len(bert.bert.encoder.layer) == 2
    tokens = torch.randint(1, 20, (3, 6))
    words = bert(tokens, KEEP)
    alone = bert(tokens[2:, :4], KEEP[2:, :4])
    torch.testing.assert_close(words[2:, :4], alone, atol=1e-5, rtol=0)


def test_pretrained_bert_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a checkpoint of it could not be built again from its recipe."""
    monkeypatch.setattr(language, "_pretrained_bert", lambda name: language._fresh_bert(20, dim=32, layers=3))
    with pytest.raises(RefsegError, match=r"text_dim=32 and model\.text_layers=3"):
        Bert("some-bert", vocab_size=20, dim=768, layers=12, pretrained=True)


def test_missing_bert_is_one_line() -> None:
    with pytest.raises(RefsegError, match="cannot load BERT '/no/such/folder'") as caught:
        Bert("/no/such/folder", vocab_size=20, dim=768, layers=12, pretrained=True)
    assert "\n" not in str(caught.value)


def test_sentence_pooling_is_a_softmax_over_time_for_each_channel() -> None:
    torch.manual_seed(0)
    pooling = SentencePooling(4, dropout=0.5).eval()
    words = torch.randn(3, 6, 4)
    pooled = pooling(words, KEEP)
    for n, length in enumerate(LENGTHS.tolist()):
        scores = torch.tanh(words[n, :length] @ pooling.score[0].weight.T + pooling.score[0].bias)
        for c in range(4):
            weights = scores[:, c].exp() / scores[:, c].exp().sum()
            torch.testing.assert_close(pooled[n, c], (weights * words[n, :length, c]).sum(), atol=1e-6, rtol=0)
