import pytest

from capfilt.models.training.settings import PretrainSettings
from capfilt.stages.training.pretrain import web_passes


@pytest.mark.parametrize(
    ("human_share", "cleaned_share", "cleaned", "passes"),
    [(0.5, 0.0, 0, 32.0), (0.5, 0.0, 700, 16.0), (0.5, 0.25, 70, 16.0), (1.0, 0.0, 0, 0.0)],
)
def test_how_often_pretraining_sees_a_web_image(
    human_share: float, cleaned_share: float, cleaned: int, passes: float
) -> None:
    settings = PretrainSettings(700, human_share=human_share, cleaned_share=cleaned_share)
    assert web_passes(vars(settings), 700, cleaned) == passes
    assert web_passes(vars(settings), 0, cleaned) == 0.0
