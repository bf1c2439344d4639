"""Read the bytes of every listed image, see that they decode, and clean what the web wrote beside them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.identity import image_id, pair_id, split_of
from capfilt.data_contracts.records import HumanImage, IngestedImage, Metric, Occurrence, Record
from capfilt.data_contracts.rejects import Reason
from capfilt.models.images.decode import Limits, Measured
from capfilt.models.images.decoder import Decoder, Refused
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.fetch.shard import Fetched, fetch
from capfilt.stages.ingest.list_source import KINDS
from capfilt.stages.ingest.preflight import promise
from capfilt.stages.ingest.sources.source import SourceSpec
from capfilt.stages.ingest.texts import TextRules, clean
from capfilt.stages.stage import Rejected, Rows, ShardInput, ShardStage, Site, Transform

BATCH = 128
AT_ONCE = 64 * 10**6  # bytes of images that are held together
Row = Mapping[str, Any]
Found = bytes | Refused
Readers = Mapping[str, Callable[[str], bytes]]


@dataclass(frozen=True)
class IngestImages(ShardStage):
    """Occurrences to images: the original bytes, what they are, and the texts, cleaned.

    Rows of sources without bytes are fetched, a shard at once, as ``policy`` says; ``policy`` is null when no
    source has such rows. What was fetched before a kill is not fetched again. When far fewer rows succeed than the
    preflight's sample promised, the run stops instead of burning the list.

    A text that leaves does not take its image along: one without any text can still be captioned.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (Occurrence, Metric)
    produces: ClassVar[type[Record]] = IngestedImage
    libraries: ClassVar[tuple[str, ...]] = ("ftfy", "pillow")

    sources: tuple[SourceSpec, ...]
    limits: Limits = field(default_factory=Limits)
    texts: TextRules = field(default_factory=TextRules)
    policy: FetchPolicy | None = None

    def open(self, site: Site) -> Transform:
        kinds = ((source, KINDS[source.format].reader) for source in self.sources)
        readers = {source.name: reader(source) for source, reader in kinds if reader}
        decoder = Decoder(self.limits)
        return lambda shard: self._transform(shard, readers, decoder)

    def _transform(self, shard: ShardInput, readers: Readers, decoder: Decoder) -> Iterator[Rows]:
        fetched = self._fetched(shard, readers)
        # All of it now, with no row in hand: a death while fetching is not the first batch's fault.
        fetched = chain([*islice(fetched, 1)], fetched)
        for batch in shard.stream(Occurrence, BATCH):
            for held in _in_hand(self._found(batch.to_pylist(), readers, fetched)):
                yield self._rows(held, decoder)

    def _fetched(self, shard: ShardInput, readers: Readers) -> Iterator[Fetched]:
        """What the web gave for the rows that no reader has, in their order."""
        rows = shard.table(Occurrence, ["row_id", "source_name", "place"])
        asked = rows.filter(pc.invert(pc.is_in(rows["source_name"], pa.array(readers, pa.string()))))
        if not len(asked) or self.policy is None:
            return
        promised = promise(shard.table(Metric)) if shard.has(Metric) else 0.0
        pairs = list(zip(asked["row_id"].to_pylist(), asked["place"].to_pylist(), strict=True))
        yield from fetch(pairs, self.policy, shard.lasting(), shard.progress, promised)

    def _found(
        self, rows: Iterable[Row], readers: Readers, fetched: Iterator[Fetched]
    ) -> Iterator[tuple[Row, Found]]:
        """Each row with its bytes, or why there are none, in order."""
        for row in rows:
            if row["source_name"] not in readers:
                got = next(one for one in fetched if one.row_id == row["row_id"])
                yield row, Refused(got.reason, got.detail) if got.reason else got.data or b""
                continue
            try:
                yield row, readers[row["source_name"]](row["place"])
            except OSError as error:
                yield row, Refused(Reason.MISSING, str(error))

    def _rows(self, held: Sequence[tuple[Row, Found]], decoder: Decoder) -> Rows:
        verdicts = iter(decoder([found for _, found in held if isinstance(found, bytes)]))
        kept: list[Record] = []
        rejected: list[Rejected] = []
        for row, found in held:
            verdict = next(verdicts) if isinstance(found, bytes) else found
            if isinstance(found, bytes) and isinstance(verdict, Measured):
                made, left = self._image(row, found, verdict)
                rejected += left
                if made is not None:
                    kept.append(made)
            elif isinstance(verdict, Refused):
                rejected.append(self._reject(row, verdict))
        return Rows(Contract(self.produces).table(kept), rejected)

    def _image(self, row: Row, data: bytes, measured: Measured) -> tuple[Record | None, list[Rejected]]:
        """The image, and the texts that leave it."""
        image = image_id(data)
        texts, left = self._texts(row, image)
        made = IngestedImage(
            row_id=row["row_id"],
            image_id=image,
            source_name=row["source_name"],
            url=row["url"],
            texts=texts,
            image=data,
            extra=row["extra"],
            **measured._asdict(),
        )
        return made, left

    def _texts(self, row: Row, image: str) -> tuple[list[str], list[Rejected]]:
        """The texts that stay, cleaned, each once, and those that leave: every text is one or the other."""
        kept: dict[str, None] = {}
        left: list[Rejected] = []
        for text in row["texts"]:
            cleaned = clean(text)
            reason = Reason.DUPLICATE_PAIR if cleaned in kept else self._refuse(cleaned)
            if reason is None:
                kept[cleaned] = None
            else:
                left.append(
                    Rejected(
                        id=pair_id(image, cleaned),
                        row_id=row["row_id"],
                        unit="text",
                        reason=reason,
                        detail=f"{row['url']}: {text[:200]}",
                    )
                )
        return [*kept], left

    def _refuse(self, cleaned: str) -> Reason | None:
        return self.texts.refuse(cleaned)

    def _reject(self, row: Row, why: Refused) -> Rejected:
        return Rejected(
            id=row["row_id"],
            row_id=row["row_id"],
            reason=why.reason,
            detail=f"{row['url']}: {why.detail}",
        )


@dataclass(frozen=True)
class IngestHuman(IngestImages):
    """The human set: an image without a caption leaves, and every image is told what it is for.

    Its captions are cleaned, but no rule is held against them: people wrote them for their image.
    """

    produces: ClassVar[type[Record]] = HumanImage

    def _image(self, row: Row, data: bytes, measured: Measured) -> tuple[Record | None, list[Rejected]]:
        made, left = super()._image(row, data, measured)
        assert isinstance(made, IngestedImage)
        if not made.texts:
            return None, [*left, self._reject(row, Refused(Reason.EMPTY, "no human caption"))]
        return HumanImage(**made.model_dump(), split=split_of(made.image_id)), left

    def _refuse(self, cleaned: str) -> Reason | None:
        return None if cleaned else Reason.EMPTY_TEXT


def _in_hand(found: Iterable[tuple[Row, Found]]) -> Iterator[list[tuple[Row, Found]]]:
    """Runs of at most BATCH rows and about AT_ONCE bytes."""
    held: list[tuple[Row, Found]] = []
    size = 0
    for row, data in found:
        held.append((row, data))
        size += len(data) if isinstance(data, bytes) else 0
        if len(held) == BATCH or size >= AT_ONCE:
            yield held
            held, size = [], 0
    if held:
        yield held
