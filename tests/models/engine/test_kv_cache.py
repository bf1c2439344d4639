import torch

from capfilt.models.engine.kv_cache import KVCache, Writer
from capfilt.models.engine.linear import Arithmetic
from capfilt.models.med.model import Med

PROMPT = [7, 8, 9]


@torch.inference_mode()
def test_logits_are_the_decoders_own_while_rows_leave_and_enter(model: Med) -> None:
    """Rows of three images at different lengths, checked against a forward pass without a cache."""
    writer = Writer(model.text_decoder, model.config, Arithmetic("fp32", "cpu"))
    slots = KVCache(writer, images=3, width=2, room=12)
    states = model.encode_images(torch.randn(4, 3, 32, 32))
    kept = model.text_decoder.bert.image_keys_values(states)

    def expected(image: int, tokens: list[int]) -> torch.Tensor:
        own = [layer.rows(torch.tensor([image])) for layer in kept]
        return model.text_decoder(torch.tensor([[*PROMPT, *tokens]]), own)[0][0, -1]

    def enter(*images: int) -> None:
        first = slots.admit(states[list(images)], PROMPT)
        for number, image in enumerate(images):
            assert torch.allclose(first[number], expected(image, []), atol=1e-4)
            rows.extend([(image, []), (image, [])])

    def step() -> None:
        for number, (_, tokens) in enumerate(rows):
            tokens.append((5 * number + len(tokens)) % 20 + 5)
        logits = slots.step(torch.tensor([tokens[-1] for _, tokens in rows]))
        for number, (image, tokens) in enumerate(rows):
            assert torch.allclose(logits[number], expected(image, tokens), atol=1e-4), number

    def leave(row: int) -> None:
        assert slots.leave(row) == len(rows) - 1
        rows[row] = rows[-1]
        rows.pop()

    rows: list[tuple[int, list[int]]] = []
    enter(0, 1, 2)
    step()
    leave(1)
    step()
    leave(0)  # image 0 is done: the last image takes its slot
    assert (slots.images, slots.rows) == (2, 4)
    step()
    enter(3)
    step()
    for row in (5, 0, 2, 0):
        leave(row)
        step()
    assert slots.images == len({image for image, _ in rows})


@torch.inference_mode()
def test_beams_follow_their_sources(model: Med) -> None:
    writer = Writer(model.text_decoder, model.config, Arithmetic("fp32", "cpu"))
    states = model.encode_images(torch.randn(1, 3, 32, 32))
    one, two = (KVCache(writer, images=1, width=3, room=9) for _ in range(2))
    for slots in (one, two):
        slots.admit(states, PROMPT)
        slots.step(torch.tensor([5, 6, 7]))
    two.follow(torch.tensor([2, 2, 0]))
    straight, branched = one.step(torch.tensor([8, 9, 10])), two.step(torch.tensor([10, 10, 8]))
    assert torch.allclose(branched[0], straight[2], atol=1e-5)
    assert torch.allclose(branched[2], straight[0], atol=1e-5)
    assert not torch.allclose(straight[0], straight[2], atol=1e-2)
