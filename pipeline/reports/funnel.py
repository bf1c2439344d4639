"""The funnel of the crawl: what came in, what stayed, what left and why, and which hosts lose the most."""

from typing import Any

from capfilt.data_contracts.rejects import MEANING
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import query, stages
from capfilt.stages.ingest.placeholders import HOST

HOSTS = 10
_SAMPLE = 2000  # images whose bytes are measured: a count of them all would read the whole crawl
_QUANTILES = (0.05, 0.5, 0.95)
_HOST = f"coalesce(nullif(regexp_extract(lower(url), '{HOST}', 1), ''), source_name)"


def build(ledger: Ledger, hosts: int = HOSTS) -> dict[str, Any]:
    """The funnel of `ingest` as JSON types, from storage alone.

    Local files count for a host that is called like their source. Sizes are in pixels and bytes, at the quantiles
    0.05, 0.5 and 0.95.
    """
    totals = stages.view(ledger, "ingest").totals
    kept, left = query.files(ledger, "ingest"), query.files(ledger, "ingest", rejects=True)
    return {
        "units_in": totals.units_in,
        "kept": totals.kept,
        "rejected": _by_reason(totals.rejected),
        "hosts": _hosts(ledger, kept, left, hosts),
        "sizes": _sizes(kept),
        "texts": _texts(kept) | {"rejected": _by_reason(totals.texts_rejected)},
    }


def _by_reason(counts: dict[Any, int]) -> list[dict[str, Any]]:
    """The most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"reason": str(reason), "count": count, "meaning": MEANING[reason]} for reason, count in ordered]


def _hosts(ledger: Ledger, kept: query.Files, left: query.Files, hosts: int) -> list[dict[str, Any]]:
    """Hosts that lost anything, those that lost the most first, with what they lost most of it for.

    A reject knows its row, the listing knows its url.
    """
    lost = query.query(
        f"SELECT host, sum(n)::BIGINT AS left, arg_max(reason, n) AS mostly FROM (SELECT {_HOST} AS host, reason, "
        "count(*) AS n FROM files JOIN (SELECT row_id, any_value(url) AS url, any_value(source_name) AS source_name "
        "FROM listed GROUP BY row_id) USING (row_id) WHERE unit <> 'text' GROUP BY ALL) "
        f"GROUP BY host ORDER BY 2 DESC, host LIMIT {int(hosts)}",
        left,
        listed=query.files(ledger, "list_web"),
    )
    names = [row["host"] for row in lost]
    found = query.query(
        f"SELECT {_HOST} AS host, count(*) AS kept FROM files GROUP BY host HAVING list_contains(?, host)",
        kept,
        names,
    )
    stayed = {row["host"]: row["kept"] for row in found}
    return [{**row, "kept": stayed.get(row["host"], 0)} for row in lost]


def _sizes(kept: query.Files) -> dict[str, Any]:
    at = list(_QUANTILES)
    sides = query.query(
        f"SELECT quantile_disc(width, {at}) AS width, quantile_disc(height, {at}) AS height, "
        "quantile_cont(greatest(width, height) / least(width, height), 0.95) AS aspect FROM files",
        kept,
    )
    formats = query.query(
        "SELECT format, count(*) AS images FROM files GROUP BY format ORDER BY 2 DESC, 1", kept
    )
    sample = query.query(
        f"SELECT quantile_disc(octet_length(image), {at}) AS bytes, avg(octet_length(image)) AS mean, "
        f"count(*) AS images FROM (SELECT image FROM files LIMIT {_SAMPLE})",
        kept,
    )
    count = sum(row["images"] for row in formats)
    if not count:
        return {}
    return {
        **sides[0],
        "bytes": sample[0]["bytes"],
        "bytes_sampled": sample[0]["images"],
        "bytes_in_all": round(sample[0]["mean"] * count),
        "formats": {row["format"]: row["images"] for row in formats},
    }


def _texts(kept: query.Files) -> dict[str, Any]:
    rows = query.query(
        "SELECT coalesce(sum(len(texts)), 0)::BIGINT AS kept, count(*) FILTER (len(texts) = 0) AS without FROM files",
        kept,
    )
    return (
        {"kept": rows[0]["kept"], "images_without": rows[0]["without"]}
        if rows
        else {"kept": 0, "images_without": 0}
    )
