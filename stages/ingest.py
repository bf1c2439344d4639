"""Read the bytes of every listed image and see that they decode."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

from data_contracts.contract import Contract
from data_contracts.identity import image_id, split_of
from data_contracts.records import HumanPicture, Occurrence, Picture, Record
from data_contracts.rejects import Reason, Reject
from stages.list_source import KINDS
from stages.sources.source import SourceSpec
from stages.stage import Rows, ShardInput, ShardStage, Site, Transform

BATCH = 128
Readers = Mapping[str, Callable[[str], bytes]]


@dataclass(frozen=True)
class IngestPictures(ShardStage):
    """Occurrences to pictures: the original bytes, what they are, and the texts.

    An image without any text stays: it can still be captioned. ``decoder`` names what decides whether bytes
    are a picture, so that another version of it is another stage.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (Occurrence,)
    produces: ClassVar[type[Record]] = Picture

    sources: tuple[SourceSpec, ...]
    decoder: str

    def open(self, site: Site) -> Transform:
        kinds = ((source, KINDS[source.format].reader) for source in self.sources)
        readers = {source.name: reader(source) for source, reader in kinds if reader}
        return lambda shard: self._transform(shard, readers)

    def _transform(self, shard: ShardInput, readers: Readers) -> Iterator[Rows]:
        contract = Contract(self.produces)
        for batch in shard.stream(Occurrence, BATCH):
            kept, rejected = [], []
            for row in batch.to_pylist():
                made = self._picture(row, readers)
                if isinstance(made, Reject):
                    rejected.append(made)
                else:
                    kept.append(made)
            yield Rows(contract.table(kept), rejected)

    def _picture(self, row: Mapping[str, Any], readers: Readers) -> Record | Reject:
        from models.images import UndecodableImage, decode  # imports torch: seconds that a plan need not pay

        try:
            data = readers[row["source_name"]](row["place"])
            width, height = decode(data).size
            with Image.open(io.BytesIO(data)) as opened:
                format = opened.format or ""
        except OSError as error:
            return self._reject(row, Reason.MISSING, str(error))
        except UndecodableImage as error:
            return self._reject(row, Reason.UNREADABLE, str(error))
        return Picture(
            row_id=row["row_id"],
            image_id=image_id(data),
            source_name=row["source_name"],
            url=row["url"],
            texts=row["texts"],
            image=data,
            format=format,
            width=width,
            height=height,
            extra=row["extra"],
        )

    def _reject(self, row: Mapping[str, Any], reason: Reason, detail: str) -> Reject:
        return Reject(
            id=row["row_id"],
            row_id=row["row_id"],
            stage="ingest",
            unit=self.unit,
            reason=reason,
            detail=f"{row['url']}: {detail}",
        )


@dataclass(frozen=True)
class IngestHuman(IngestPictures):
    """The human set: a picture without a caption leaves, and every image is told what it is for."""

    produces: ClassVar[type[Record]] = HumanPicture

    def _picture(self, row: Mapping[str, Any], readers: Readers) -> Record | Reject:
        if not row["texts"]:
            return self._reject(row, Reason.EMPTY, "no human caption")
        made = super()._picture(row, readers)
        if isinstance(made, Reject):
            return made
        assert isinstance(made, Picture)
        return HumanPicture(**made.model_dump(), split=split_of(made.image_id))
