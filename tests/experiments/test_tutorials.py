import pytest
import snntorch as snn
import torch
from snntorch import functional as SF

from ss_lightning import LeakyReadout
from ss_lightning.errors import UsageError
from ss_lightning.experiments import tutorials
from ss_lightning.experiments.tutorials import ROWS, Tutorial5, Tutorial6, loss_of_tutorial_6, main


def run(idx, tmp_path, capsys, number):
    root = idx.write_all(tmp_path)
    assert main([str(number), "--root", str(root), "--num_train=8", "--num_test=6"]) == 0
    head, _, *rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [row.name for row in ROWS[number]]
    for row, made in zip(rows, ROWS[number], strict=True):
        assert len(row) == len(head)
        assert (row[1] == "none") == isinstance(made.output(), LeakyReadout)
        assert 0 <= float(row[2].rstrip("%")) <= 100
    hidden = [float(row[3].replace(",", "")) for row in rows]
    assert sum(hidden) > 0


def test_one_batch_of_tutorial_5(idx, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Tutorial5, "num_steps", 5)
    run(idx, tmp_path, capsys, 5)


@pytest.mark.slow
def test_one_batch_of_tutorial_6(idx, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Tutorial6, "num_steps", 5)
    run(idx, tmp_path, capsys, 6)


def test_the_network_is_that_of_the_tutorial():
    """Against a loop written as in tutorial 5, and snnTorch's own loss."""
    torch.manual_seed(0)
    net, images, labels = Tutorial5(ROWS[5][0]), torch.rand(3, 1, 28, 28), torch.tensor([1, 2, 3])
    (_, first), second = net.synapses[0], net.synapses[1]
    hidden, output = snn.Leaky(beta=0.95), snn.Leaky(beta=0.95)
    mem1, mem2 = hidden.init_leaky(), output.init_leaky()
    spikes, membranes, total = [], [], 0
    for _ in range(25):
        spk1, mem1 = hidden(first(images.flatten(1)), mem1)
        spk2, mem2 = output(second(spk1), mem2)
        total += spk1.sum().item()
        spikes.append(spk2)
        membranes.append(mem2)
    found = net(images)
    assert torch.equal(found[0], torch.stack(spikes))
    torch.testing.assert_close(found[1], torch.stack(membranes))
    assert found[2] == total
    loss = loss_of_tutorial_6(*found[:2], labels)
    torch.testing.assert_close(loss, SF.ce_rate_loss()(found[0], labels).squeeze())


def test_training_lowers_the_loss(monkeypatch):
    monkeypatch.setattr(Tutorial5, "num_steps", 5)
    torch.manual_seed(0)
    images, labels = torch.rand(10, 1, 28, 28), torch.arange(10)
    found = tutorials.train_and_test(5, ROWS[5][4], (images, labels), (images, labels), epochs=30, seed=0)
    assert found.by_spikes is None
    assert found.by_membrane > 0.8


def test_wrong_arguments(tmp_path):
    with pytest.raises(UsageError, match="1 or more"):
        main(["5", "--root", str(tmp_path), "--epochs=0"])
