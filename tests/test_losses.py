import torch

from ss_lightning.losses import classification_loss, spike_penalty


def test_label_smoothing_and_half_precision():
    scores, labels = torch.tensor([[8.0, 0.0]]), torch.tensor([0])
    sharp, smooth = classification_loss(scores, labels), classification_loss(scores, labels, 0.1)
    assert smooth > sharp
    assert classification_loss(scores.bfloat16(), labels).dtype == torch.float32


def test_spike_penalty_is_the_squared_distance_from_the_band():
    counts = [torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0], [2.0]])]  # rates 1, 0.5, 2.5
    assert spike_penalty(counts, (0.0, float("inf"))) == 0
    torch.testing.assert_close(spike_penalty(counts, (0.6, 0.9)), torch.tensor((0.1**2 + 0.1**2 + 1.6**2) / 3))
