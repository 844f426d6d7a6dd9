import torch

from videomar.model.head import FlowHead
from videomar.runtime import step_generator


def test_untrained_head_predicts_zero(params):
    head = FlowHead(params.model, 4)
    head.zero_init()
    assert not head.predict(torch.randn(5, 4), torch.rand(5), torch.randn(5, 32)).any()


def test_perfect_direction_reaches_the_token_in_any_number_of_steps(model):
    token, noise = torch.randn(2, 6, 4, generator=step_generator(0, 0)).unbind(0)
    model.head._predict = lambda tokens, time, embedded: token - noise
    for steps in (1, 3, 12):
        drawn = model.head.sample(torch.zeros(6, 32), None, 1.0, noise, steps)
        assert torch.allclose(drawn, token, atol=1e-5)


def test_head_learns_two_points_from_one_condition(params):
    """A mixture is recovered: 30 % of tokens at -1 and 70 % at +1, told apart by the noise alone."""
    generator = step_generator(0, 0)
    head = FlowHead(params.model, 1)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    hidden = torch.zeros(256, 32)
    for _ in range(600):
        tokens = torch.where(torch.rand(256, 1, generator=generator) < 0.3, -1.0, 1.0)
        loss = head.loss(tokens, hidden, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = head.sample(torch.zeros(2000, 32), None, 1.0, torch.randn(2000, 1, generator=generator), 50)
    low = drawn < 0
    assert abs(low.float().mean().item() - 0.3) < 0.06
    assert abs(drawn[low].mean().item() + 1) < 0.1
    assert abs(drawn[~low].mean().item() - 1) < 0.1
