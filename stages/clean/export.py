"""Write the cleaned dataset: kept web pairs, kept synthetic pairs and all human pairs, with provenance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.identity import pair_id
from capfilt.data_contracts.records import (
    CleanId,
    CleanPair,
    Decision,
    HumanImage,
    IngestedImage,
    Record,
    Score,
    Source,
    WordCount,
)
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.clean.balance import Balance, Balancer
from capfilt.stages.ingest.fetch.takedown import TakeDown, TakeDownFile
from capfilt.stages.stage import Rejected, Rows, ShardInput, ShardStage, Site, Transform

BATCH = 256


@dataclass(frozen=True)
class ExportPairs(ShardStage):
    """The join of a shard's images, scores and decisions; a shard of the human set goes in whole.

    ``embed`` puts the image bytes beside every pair; without it ``image`` is null and the bytes stay where
    they are, in the `ingest` and `human` stages under the same row_id. ``takedown`` names images that must not be
    published, whenever they were fetched: another list is another export, and nothing before it runs again.
    ``balance`` leaves out selected pairs of which every word is in too many.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (
        IngestedImage,
        HumanImage,
        Score,
        Decision,
        WordCount,
    )
    produces: ClassVar[type[Record]] = CleanPair
    unit: ClassVar[str] = "text"

    embed: bool
    round: int = 1
    takedown: TakeDownFile | None = None
    balance: Balance | None = None

    def open(self, site: Site) -> Transform:
        takedown = self.takedown.load() if self.takedown else TakeDown()
        balancer = self.balance.load() if self.balance else None
        return lambda shard: self._transform(shard, takedown, balancer)

    def units(self, shard: ShardInput) -> Mapping[str, Sequence[str]]:
        units: dict[str, list[str]] = {}
        if shard.has(Decision):
            for row in shard.table(Decision, ["row_id", "pair_id"]).to_pylist():
                units.setdefault(row["row_id"], []).append(row["pair_id"])
        else:
            for row in shard.table(HumanImage, ["row_id", "image_id", "texts"]).to_pylist():
                units[row["row_id"]] = [pair_id(row["image_id"], text) for text in row["texts"]]
        return units

    def _transform(self, shard: ShardInput, takedown: TakeDown, balancer: Balancer | None) -> Iterator[Rows]:
        if shard.has(Decision):
            yield from self._crawled(shard, takedown, balancer)
        else:
            yield from self._human(shard, takedown)

    def _crawled(self, shard: ShardInput, takedown: TakeDown, balancer: Balancer | None) -> Iterator[Rows]:
        over = {}
        if balancer:
            counted = shard.table(WordCount, ["word", "pairs"])
            over = dict(zip(counted["word"].to_pylist(), counted["pairs"].to_pylist(), strict=True))
        decided = set(shard.table(Decision, ["pair_id"])["pair_id"].to_pylist())
        texts: dict[str, list[dict[str, Any]]] = {}
        for score in shard.table(Score).to_pylist():
            if score["pair_id"] in decided:
                texts.setdefault(score["row_id"], []).append(score)
        for batch in shard.stream(IngestedImage, BATCH):
            pairs, rejected = [], []
            for image in batch.to_pylist():
                own = texts.get(image["row_id"], ())
                if takedown.names(image["url"], image["image_id"]):
                    rejected += [
                        self._reject(image, score["pair_id"], Reason.TAKEN_DOWN, score["text"])
                        for score in own
                    ]
                    continue
                for score in own:
                    words = balancer.concepts(score["text"]) if balancer else ()
                    if balancer and not balancer.stays(score["pair_id"], words, over):
                        said = ", ".join(f"{word} in {over[word]:,}" for word in words)
                        detail = f"{said}: {score['text']}"
                        rejected.append(self._reject(image, score["pair_id"], Reason.OVER_CAP, detail))
                    else:
                        pairs.append(self._row(image, {**score, "split": None}))
            yield Rows(Contract(self.produces).table(pairs), rejected)

    def _human(self, shard: ShardInput, takedown: TakeDown) -> Iterator[Rows]:
        seen: set[str] = set()
        unjudged = {"source": Source.HUMAN, "itm": None, "itc": None, "caption_index": None}
        for batch in shard.stream(HumanImage, BATCH):
            pairs, rejected = [], []
            for image in batch.to_pylist():
                gone = takedown.names(image["url"], image["image_id"])
                for text in image["texts"]:
                    pair = pair_id(image["image_id"], text)
                    if gone or pair in seen:
                        reason = Reason.TAKEN_DOWN if gone else Reason.DUPLICATE_PAIR
                        rejected.append(self._reject(image, pair, reason, text))
                        continue
                    seen.add(pair)
                    pairs.append(self._row(image, {**unjudged, "pair_id": pair, "text": text}))
            yield Rows(Contract(self.produces).table(pairs), rejected)

    def _reject(self, image: Mapping[str, Any], pair: str, reason: Reason, text: str) -> Rejected:
        return Rejected(
            id=pair,
            row_id=image["row_id"],
            reason=reason,
            detail=f"{image['url']}: {text[:200]}",
        )

    def _row(self, image: Mapping[str, Any], text: Mapping[str, Any]) -> Record:
        values = {**image, **text, "round": self.round}
        values["image"] = image["image"] if self.embed else None
        return CleanPair(**{name: values[name] for name in CleanPair.model_fields})


@dataclass(frozen=True)
class ExportIds(ExportPairs):
    """A subset list: the same pairs as ids, to be joined with the stages or with another copy."""

    produces: ClassVar[type[Record]] = CleanId

    def _row(self, image: Mapping[str, Any], text: Mapping[str, Any]) -> Record:
        values = {**image, **text}
        return CleanId(**{name: values[name] for name in CleanId.model_fields})
