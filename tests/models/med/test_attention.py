import torch

from capfilt.models.med.attention import KeyValue


def test_gradients_do_not_depend_on_which_thread_adds_first() -> None:
    """Texts share images, so rows are taken several times: training twice has to give the same bits."""
    generator = torch.Generator().manual_seed(0)
    values, weights = (
        torch.randn(64, 4, 17, 32, generator=generator),
        torch.randn(192, 4, 17, 32, generator=generator),
    )
    taken = torch.randint(0, 64, (192,), generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = set()
        for _ in range(30):
            shared = values.clone().requires_grad_()
            (KeyValue(shared, shared).rows(taken).key * weights).sum().backward()
            assert shared.grad is not None
            gradients.add(shared.grad.numpy().tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(gradients) == 1
