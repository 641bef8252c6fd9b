import torch

from ss_lightning.data.samplers import EvaluationSampler, even_batch_size


def test_every_process_has_as_many_batches_as_the_others():
    for num_samples in range(1, 60):
        for replicas in range(1, min(num_samples, 6) + 1):
            for wanted in (1, 2, 3, 4, 7, 12, 100):
                size = even_batch_size(num_samples, replicas, wanted)
                shares = [len(range(rank, num_samples, replicas)) for rank in range(replicas)]
                assert len({-(-share // size) for share in shares}) == 1
    assert even_batch_size(251, 2, 128) == 128
    assert even_batch_size(257, 2, 128) == 127


def test_lightning_leaves_the_sampler_alone():
    assert issubclass(EvaluationSampler, torch.utils.data.DistributedSampler)
