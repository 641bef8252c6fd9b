import copy
import pickle

import pytest
import torch

from ss_lightning import MLP, EventBatch
from ss_lightning.losses import classification_loss
from ss_lightning.networks import FirstSpikeDecoder, make_decoder

NAMES = ["sum", "max", "softmax", "first_spike"]


@pytest.mark.parametrize("name", ["summ", "", "Sum", None])
def test_an_unknown_word_is_refused(name):
    with pytest.raises(ValueError, match=f"unknown decoder {name!r}; choose sum, max, softmax or first_spike"):
        make_decoder(name)


@pytest.mark.parametrize("name", NAMES)
def test_decoders_are_values(name):
    decoder = make_decoder(name)
    assert decoder.name == name
    assert decoder == copy.deepcopy(decoder) == pickle.loads(pickle.dumps(decoder))
    assert [decoder == make_decoder(other) for other in NAMES] == [name == other for other in NAMES]


def test_the_readout_of_a_network_fires_if_its_decoder_reads_spikes():
    for name in NAMES:
        net = MLP(input_shape=[2], num_classes=2, step_ms=1.0, hidden=[4], decoder=name)
        assert net.decoder == make_decoder(name)
        assert net.decoder.readout_fires == (name == "first_spike") == hasattr(net.readout, "estimator")
    assert FirstSpikeDecoder.readout_fires


def test_sum_and_max_over_time():
    readout = torch.tensor([[[1.0, 5.0]], [[3.0, -1.0]]])
    assert make_decoder("sum").scores(readout).tolist() == [[4, 4]]
    assert make_decoder("max").scores(readout).tolist() == [[3, 5]]


def test_an_earlier_spike_is_a_higher_score():
    spikes = torch.zeros(10, 1, 4)
    spikes[0, 0, 0] = spikes[5, 0, 1] = spikes[9, 0, 2] = 1
    scores = make_decoder("first_spike").scores(spikes)
    torch.testing.assert_close(scores, torch.tensor([[0.0, -10.0, -18.0, -20.0]]))


def test_first_spike_gradient_wants_the_true_class_earlier():
    spikes = torch.zeros(10, 1, 2, requires_grad=True)
    classification_loss(make_decoder("first_spike").scores(spikes), torch.tensor([0])).backward()
    true, other = spikes.grad[:, 0].unbind(1)
    assert (true < 0).all()
    assert (true.diff() > 0).all(), "an earlier spike helps more"
    assert (other > 0).all()


def test_softmax_averages_the_probabilities_of_the_steps():
    readout = torch.randn(7, 3, 4, dtype=torch.float64)
    scores = make_decoder("softmax").scores(readout)
    torch.testing.assert_close(scores.exp(), readout.softmax(2).mean(0))
    torch.testing.assert_close(scores.softmax(1), scores.exp())
    # One loud step cannot outvote the others.
    readout[3] *= 1000
    assert (make_decoder("softmax").scores(readout).exp() - scores.exp()).abs().max() <= 1 / 7


@pytest.mark.parametrize("decoder", ["sum", "max", "softmax", "first_spike"])
def test_every_decoder_learns(decoder):
    """Two classes that differ in which unit fires first."""
    torch.manual_seed(0)
    spikes = torch.zeros(20, 2, 2)
    spikes[2, 0, 0] = spikes[12, 0, 1] = spikes[2, 1, 1] = spikes[12, 1, 0] = 1
    events, labels = EventBatch.from_dense(spikes), torch.tensor([0, 1])
    net = MLP(
        input_shape=(2,),
        num_classes=2,
        step_ms=1,
        hidden=[20],
        decoder=decoder,
        estimator="survival",
        input_gain=3,
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        scores = net.decoder.scores(net(events).readout)
        classification_loss(scores, labels).backward()
        optimizer.step()
    assert net.decoder.scores(net(events).readout).argmax(1).tolist() == [0, 1]


class TestDecisionStep:
    """The first step from which the final winner leads for good."""

    def slow(self, readout, decoder):
        """Decode every beginning of the sequence, as the words say it."""
        final = make_decoder(decoder).scores(readout).argmax(1)
        steps = []
        for sample, winner in enumerate(final.tolist()):
            decided = len(readout)
            for step in reversed(range(len(readout))):
                heard = torch.zeros_like(readout[:, sample])
                heard[: step + 1] = readout[: step + 1, sample]
                scores = make_decoder(decoder).scores(
                    (heard if decoder == "first_spike" else heard[: step + 1])[:, None]
                )[0]
                others = torch.cat([scores[:winner], scores[winner + 1 :]])
                if not scores[winner] > others.max():
                    break
                decided = step
            steps.append(decided)
        return steps

    @pytest.mark.parametrize("decoder", ["sum", "max", "softmax", "first_spike"])
    @pytest.mark.parametrize("seed", range(3))
    def test_agrees_with_decoding_every_beginning(self, decoder, seed):
        torch.manual_seed(seed)
        readout = torch.randint(-3, 4, (17, 30, 3)).double()
        if decoder == "first_spike":
            spikes = torch.rand(17, 30, 3) < 0.05
            readout = (spikes & (spikes.cumsum(0) == 1)).double()
        assert make_decoder(decoder).decision_step(readout).tolist() == self.slow(readout, decoder)

    def test_a_tie_is_no_decision(self):
        assert make_decoder("sum").decision_step(torch.zeros(5, 2, 3)).tolist() == [5, 5]
        readout = torch.zeros(5, 1, 2)
        readout[2, 0, 0] = 1
        assert make_decoder("sum").decision_step(readout).tolist() == [2]

    def test_a_single_class_is_decided_at_once(self):
        assert make_decoder("sum").decision_step(torch.zeros(5, 1, 1)).tolist() == [0]
