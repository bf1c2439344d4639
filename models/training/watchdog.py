"""What goes wrong in a training without an error: found, and stopped with what to do about it."""

import torch
from torch import Tensor, nn

from capfilt.data_contracts.errors import TrainingError

PRIOR = 2 / 3  # of three ITM pairs two are mismatches: always saying so is right this often
ALIGNED = 0.6  # ITC's recall in a batch from which on ITM has what it needs to learn
PATIENCE = 150  # steps
EVEN = 0.55  # an AUC below says nothing
FEW = 40  # validation images: with fewer a figure at chance proves nothing
LOUD = 0.9  # the share of images that get one and the same caption
LOOK = (
    "look whether the human captions fit their images, in the rows of `human`; then train longer, lower lr, or "
    "bring more pairs"
)


class Watch(nn.Module):
    """Looks at every step's record. Its buffers are saved with the learner, so a restart forgets nothing."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("collapsed", "bound", "diverged", "calm", "lowest"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self.collapsed: Tensor
        self.bound: Tensor
        self.diverged: Tensor
        self.calm: Tensor
        self.lowest: Tensor

    def forward(self, record: dict[str, float]) -> None:
        """Raises :class:`TrainingError` when the training has gone wrong for good."""
        self._temperature(record)
        self._diverging(record)
        self._itm(record)
        if record["step"] == record["steps"]:
            self._end(record)

    def _temperature(self, record: dict[str, float]) -> None:
        temperature = record.get("temperature")
        if temperature is None:
            return
        self._count(self.bound, not 0.00101 < temperature < 0.495)
        if self.bound > PATIENCE:
            raise TrainingError(
                what="ITC's temperature is stuck at its bound: similarities say nothing",
                evidence=f"step {record['step']:.0f}: temperature {temperature:.3g} for {PATIENCE} steps, "
                f"ITC loss {record.get('itc', float('nan')):.2f}",
                remedy="lower lr, warm the image encoder up longer, or look whether texts fit their images",
            )

    def _diverging(self, record: dict[str, float]) -> None:
        """A smoothed LM or ITC loss far above the lowest that it had."""
        loss = record.get("lm", record.get("itc"))
        if loss is None:
            return
        if self.calm == 0:
            self.calm.fill_(loss)
            self.lowest.fill_(loss)
        self.calm.lerp_(torch.tensor(loss, dtype=torch.float64, device=self.calm.device), 0.05)
        self.lowest.copy_(torch.minimum(self.lowest, self.calm))
        self._count(self.diverged, bool(self.calm > 1.3 * self.lowest + 0.3))
        if self.diverged > PATIENCE // 3:
            raise TrainingError(
                what="the training diverges: its loss rises instead of falling",
                evidence=f"step {record['step']:.0f}: {float(self.calm):.2f}, it was {float(self.lowest):.2f}; "
                f"lr {record['lr']:.2g}, gradient norm {record['grad_norm']:.2g}",
                remedy="lower lr, or raise warmup and batch",
            )

    def _itm(self, record: dict[str, float]) -> None:
        accuracy = record.get("itm_accuracy")
        if accuracy is None:
            return
        stuck = record.get("recall", 0.0) >= ALIGNED and accuracy <= PRIOR + 0.03
        self._count(self.collapsed, stuck)
        if self.collapsed > PATIENCE:
            raise TrainingError(
                what="ITM has collapsed: it answers the same whatever it is shown",
                evidence=f"step {record['step']:.0f}: accuracy {accuracy:.3f}, where always 'no match' has "
                f"{PRIOR:.3f}, for {PATIENCE} steps after ITC aligned (recall {record['recall']:.2f})",
                remedy="raise hard_from so that negatives start easier, or lower lr",
            )

    def _end(self, record: dict[str, float]) -> None:
        """What validation says of the trained model; with few images it proves nothing."""
        if record.get("validation_images", 0) < FEW:
            return
        itc = record.get("validation_itc_auc", 1.0)
        if itc < EVEN and "lm" in record:  # pretraining: whatever ITM answers, it had nothing to go by
            raise self._unlearnt(record, itc)
        auc, yes = record.get("validation_itm_auc", 1.0), record.get("validation_yes")
        if yes in (0.0, 1.0) and auc < EVEN:
            raise TrainingError(
                what="the filter predicts one class only: it calls "
                + ("everything a match" if yes else "nothing a match"),
                evidence=f"held-out human pairs against shuffled ones: AUC {auc:.3f}, where chance is 0.5",
                remedy=LOOK,
            )
        if itc < EVEN:
            raise self._unlearnt(record, itc)
        same, human = record.get("validation_same"), record.get("validation_same_human", 0.0)
        if same is not None and same >= LOUD and human < LOUD / 2:
            raise TrainingError(
                what="the captioner writes the same for every image",
                evidence=f"{same:.0%} of the held-out images get one caption; of the human captions the most "
                f"frequent stands under {human:.0%}",
                remedy=LOOK,
            )

    @staticmethod
    def _unlearnt(record: dict[str, float], auc: float) -> TrainingError:
        return TrainingError(
            what="nothing was learnt that holds for other human pairs: they score as shuffled ones do",
            evidence=f"held-out human pairs: ITC AUC {auc:.3f}, where chance is 0.5; in training recall at 1 is "
            f"{record.get('recall', 0.0):.2f}",
            remedy=LOOK,
        )

    @staticmethod
    def _count(counter: Tensor, so: bool) -> None:
        """How many steps in a row something has been so."""
        counter.copy_(counter + 1 if so else torch.zeros_like(counter))
